//! Sockets.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// The longest path of a Unix socket, in bytes: `sun_path` has 108 (unix(7)), or 104 where the system comes from BSD (unix(4)
/// of macOS), one of them for the zero at its end.
pub(crate) const PATH_MAX: usize = match cfg!(target_os = "linux") {
    true => 107,
    false => 103,
};

/// Whether `ECONNREFUSED` of a Unix socket means that nobody listens there. Where the system comes from BSD, a listener answers
/// so, too, when many wait for it.
pub(crate) const REFUSED_MEANS_NOBODY: bool = cfg!(target_os = "linux");

/// For sending to a peer that may have gone. Elsewhere it is enough that Rust's runtime ignores SIGPIPE.
pub(crate) fn send_flags() -> SendFlags {
    #[cfg(target_os = "linux")]
    return SendFlags::NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    SendFlags::empty()
}

/// For receiving descriptors that no child process gets; see [`received`].
pub(crate) fn receive_flags() -> RecvFlags {
    #[cfg(target_os = "linux")]
    return RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    RecvFlags::empty()
}

/// A descriptor that came with [`receive_flags`], such that no child process gets it.
///
/// # Errors
/// Those of the system.
pub(crate) fn received(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    #[cfg(not(target_os = "linux"))]
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Whether a listening socket is behind `fd`; false where the system does not tell.
pub(crate) fn is_listening(fd: impl AsFd) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = fd;
        false
    }
}

/// A Unix socket whose calls do not wait, and which no child process gets.
///
/// # Errors
/// Those of the system.
pub(crate) fn unix_stream() -> Result<OwnedFd, Errno> {
    use rustix::net::{AddressFamily, SocketType};

    #[cfg(target_os = "linux")]
    {
        let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(fd)
    }
}
