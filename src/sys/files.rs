//! Files.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::Mode;
#[cfg(target_os = "linux")]
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Makes a file without a name in `folder`, to be read and written by this user alone.
///
/// # Errors
/// `ENOTSUP` where there are no such files; else those of `openat`.
#[cfg(target_os = "linux")]
pub(crate) fn unnamed(folder: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
    match rustix::fs::openat(folder, ".", flags, Mode::RUSR | Mode::WUSR) {
        // The file system, or the kernel, knows none.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => Err(Errno::NOTSUP),
        made => made,
    }
}

/// As on Linux; there are none.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unnamed(_: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    Err(Errno::NOTSUP)
}

/// Lets the owner read, write and search the folder `name` in `parent`, which need not be readable for that; never one that a
/// link leads to.
///
/// # Errors
/// Those of the system.
#[cfg(target_os = "linux")]
pub(crate) fn open_up(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;

    // A descriptor that cannot read needs no permission, and names the very same directory.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let same = format!("/proc/self/fd/{}", path.as_raw_fd());
    rustix::fs::chmod(same, Mode::RWXU)
}

/// As on Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_up(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    use rustix::fs::AtFlags;

    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
}
