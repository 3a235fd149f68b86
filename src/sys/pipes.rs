//! Pipes.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tokio::io::{Interest, Ready};

/// What a pipe takes whole or not at all, in bytes (`PIPE_BUF`, pipe(7); POSIX has 512 at least).
pub(crate) const ATOMIC_WRITE: usize = match cfg!(target_os = "linux") {
    true => 4096,
    false => 512,
};

/// How often a pipe is looked at where the system does not report that its reader has gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Asks for a capacity in bytes: fewer wake-ups per megabyte. The system may have a lower limit, or none that can be set,
/// which only costs speed.
pub(crate) fn enlarge(pipe: impl AsFd, capacity: usize) {
    #[cfg(target_os = "linux")]
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, capacity);
    #[cfg(not(target_os = "linux"))]
    let _ = (pipe, capacity);
}

/// The capacity of a pipe, in bytes.
///
/// # Errors
/// `Unsupported` where the system does not tell; else those of the system.
pub(crate) fn capacity(pipe: impl AsFd) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::pipe::fcntl_getpipe_size(pipe)?);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pipe;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The reading and the writing end of a pipe whose [`capacity`] is known; neither end waits. It gets `capacity` bytes if that
/// can be.
///
/// # Errors
/// `Unsupported` where it would not be known; else those of the system.
pub(crate) fn with_capacity(capacity: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(target_os = "linux")]
    {
        use rustix::pipe::PipeFlags;

        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        enlarge(&writer, capacity);
        Ok((reader, writer))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = capacity;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The path that opens a pipe as a file of its own, with flags of its own.
///
/// # Errors
/// `Unsupported` where there is none: `/dev/fd` of other systems opens the same file once more.
pub(crate) fn path_of(pipe: BorrowedFd<'_>) -> io::Result<String> {
    match cfg!(target_os = "linux") {
        true => Ok(format!("/proc/self/fd/{}", pipe.as_raw_fd())),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Whether [`splice`] works at all.
pub(crate) const HAS_SPLICE: bool = cfg!(target_os = "linux");

/// Moves at most `len` bytes from one pipe to another without copying them through this process; how many.
///
/// # Errors
/// `Unsupported` where the system cannot; else those of the system, `WouldBlock` among them.
pub(crate) fn splice(from: impl AsFd, to: impl AsFd, len: usize) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::pipe::SpliceFlags;

        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(rustix::pipe::splice(from, None, to, None, len, flags)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (from, to, len);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Waits until whoever reads what is written to `fd` has gone. `ready` waits for an event of `fd`.
///
/// # Errors
/// Those of the system.
pub(crate) async fn closed<F>(
    fd: BorrowedFd<'_>,
    ready: impl FnOnce(Interest) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<Ready>>,
{
    match cfg!(target_os = "linux") {
        true => ready(Interest::ERROR).await.map(drop),
        // kqueue(2) reports it together with being writable, which a pipe nearly always is.
        false => closed_by_looking(fd, LOOK_INTERVAL).await,
    }
}

async fn closed_by_looking(fd: BorrowedFd<'_>, interval: Duration) -> io::Result<()> {
    loop {
        let mut looked_at = [PollFd::new(&fd, PollFlags::empty())];
        let now = rustix::event::Timespec::default();
        rustix::event::poll(&mut looked_at, Some(&now))?;
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        if looked_at[0].revents().intersects(gone) {
            return Ok(());
        }
        tokio::time::sleep(interval).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_has_gone_is_seen_by_looking() {
        let interval = Duration::from_millis(5);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let open = closed_by_looking(writer.as_fd(), interval);
        assert!(timeout(20 * interval, open).await.is_err());
        drop(reader);
        let gone = closed_by_looking(writer.as_fd(), interval);
        timeout(Duration::from_secs(30), gone)
            .await
            .unwrap()
            .unwrap();
    }
}
