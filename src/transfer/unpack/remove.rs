//! Removes what was restored, read-only directories included, without following a symlink.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Instant;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::sys::files;
use crate::wire::nar::MAX_DEPTH;

/// Until when anything may be removed, once the process is about to end.
static DEADLINE: OnceLock<Instant> = OnceLock::new();

/// Files from this size on, in bytes, are not removed by a process that is about to end: it would take too long.
const LARGE_FILE: i64 = 16 << 20;

/// Lets all removals of this process fail from that time on, with `EINTR`.
pub(super) fn stop_at(end: Instant) {
    let _ = DEADLINE.set(end);
}

pub(super) fn is_stopped() -> bool {
    DEADLINE.get().is_some_and(|end| Instant::now() >= *end)
}

/// Whether it has to be left, for want of time.
fn must_stay(parent: BorrowedFd<'_>, name: &CStr) -> bool {
    let is_large = || {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| stat.st_size >= LARGE_FILE)
    };
    DEADLINE.get().is_some() && (is_stopped() || is_large())
}

/// Removes the file, symlink or directory tree `name` in `parent`. Goes on where something cannot
/// be removed; the first such reason is the error.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    if is_stopped() {
        return Err(Errno::INTR);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Linux says the one about a directory, POSIX the other.
        Err(Errno::ISDIR | Errno::PERM) => remove_dir(parent, name, 0),
        Err(error) => Err(error),
    }
}

fn remove_dir(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        // Nothing of ours is as deep.
        return Err(Errno::NOTEMPTY);
    }
    let dir = open_dir(parent, name)?;
    rustix::fs::fchmod(&dir, Mode::RWXU)?;
    let mut entries = Dir::new(dir)?;
    loop {
        let (removed, failed) = remove_entries(&mut entries, depth)?;
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // Some file systems leave entries out when others are removed meanwhile.
            Err(Errno::NOTEMPTY | Errno::EXIST) if removed && failed.is_none() => entries.rewind(),
            Err(error) => return Err(failed.unwrap_or(error)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Whether anything was removed, and the first reason why something was not.
fn remove_entries(entries: &mut Dir, depth: usize) -> Result<(bool, Option<Errno>), Errno> {
    let (mut removed, mut failed) = (false, None);
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let dir = entries.fd()?;
        if must_stay(dir, entry.file_name()) {
            return Err(Errno::INTR);
        }
        let unlinked = match entry.file_type() {
            FileType::Directory => Err(Errno::ISDIR),
            _ => rustix::fs::unlinkat(dir, name, AtFlags::empty()),
        };
        let done = match unlinked {
            Err(Errno::ISDIR | Errno::PERM) => remove_dir(dir, name, depth + 1),
            other => other,
        };
        match done {
            Ok(()) => removed = true,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Ok((removed, failed))
}

/// Opens a directory of ours, whatever mode a strange umask has left it with.
pub(super) fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, OFlags::RDONLY | flags, Mode::empty());
    match open() {
        Err(Errno::ACCESS) => {
            files::open_up(parent, name)?;
            open()
        }
        opened => opened,
    }
}
