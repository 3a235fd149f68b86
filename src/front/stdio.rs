//! Standard input and output, without the detour through a thread where they are pipes or sockets
//! (as Nix makes them).

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::fs::FileType;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// How large a pipe is asked for, in bytes: fewer wake-ups for each megabyte.
const PIPE: usize = 1 << 20;

/// Standard input.
#[must_use]
pub fn stdin() -> Box<dyn AsyncRead + Send + Unpin> {
    let stdin = io::stdin();
    let reopened =
        pipe_of(stdin.as_fd()).and_then(|pipe| pipe::OpenOptions::new().open_receiver(pipe));
    let shared = |_| dup(stdin.as_fd()).and_then(pipe::Receiver::from_owned_fd);
    if let Ok(receiver) = reopened.or_else(shared) {
        return Box::new(receiver);
    }
    if let Ok(socket) = dup(stdin.as_fd()).and_then(socket) {
        return Box::new(socket);
    }
    Box::new(tokio::io::stdin())
}

/// Standard output. The only one that there is: writes from two would mingle.
#[must_use]
pub fn stdout() -> Box<dyn AsyncWrite + Send + Unpin> {
    let stdout = io::stdout();
    if let Ok(sender) = sender(stdout.as_fd()) {
        // Refused where the system's limit is lower, which costs speed alone.
        let _ = rustix::pipe::fcntl_setpipe_size(stdout.as_fd(), PIPE);
        return Box::new(sender);
    }
    if let Ok(socket) = dup(stdout.as_fd()).and_then(socket) {
        return Box::new(socket);
    }
    Box::new(tokio::io::stdout())
}

/// Whether this program was started by a Lix that reads its stderr: Lix (2.95 and newer) gives one socket as standard
/// input and output, and shows lines that are not in Nix's own form to nobody who has not asked for debugging. A
/// terminal is read by a person instead, and a socket at stderr leads to a journal, or to sshd.
#[must_use]
pub fn is_read_by_lix() -> bool {
    let kind = |fd: BorrowedFd<'_>| {
        let mode = rustix::fs::fstat(fd).ok()?.st_mode;
        Some(FileType::from_raw_mode(mode))
    };
    let (stdin, stderr) = (io::stdin(), io::stderr());
    kind(stdin.as_fd()) == Some(FileType::Socket)
        && kind(stderr.as_fd()) != Some(FileType::Socket)
        && !stderr.is_terminal()
}

/// Standard output as something that bytes can be moved to from a pipe, without a look at them:
/// where it is a pipe itself.
pub struct Splice(pipe::Sender);

impl Splice {
    /// Standard output. `None` where it cannot be used so. Nothing that writes to it may hold
    /// anything back.
    #[must_use]
    pub fn stdout() -> Option<Self> {
        let stdout = io::stdout();
        let possible = cfg!(target_os = "linux");
        possible.then(|| sender(stdout.as_fd()).ok().map(Self))?
    }

    /// Moves so many bytes there, all of which are in the pipe already.
    #[cfg(target_os = "linux")]
    pub(super) async fn from(&self, pipe: &pipe::Receiver, mut len: usize) -> io::Result<()> {
        use rustix::pipe::{SpliceFlags, splice};
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while len > 0 {
            self.0.writable().await?;
            let splice = || Ok(splice(pipe, None, &self.0, None, len, flags)?);
            match self.0.try_io(splice) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => len -= moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) async fn from(&self, _: &pipe::Receiver, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Waits until nobody reads standard output any more. Never ends where that cannot be told (a
/// file, a terminal).
pub async fn stdout_closed() {
    let stdout = io::stdout();
    let closed = if let Ok(sender) = sender(stdout.as_fd()) {
        sender.ready(Interest::ERROR).await.is_ok()
    } else if let Ok(socket) = dup(stdout.as_fd()).and_then(socket) {
        socket.ready(Interest::ERROR).await.is_ok()
    } else {
        false
    };
    if !closed {
        std::future::pending().await
    }
}

/// A pipe is opened anew, where that is allowed: that it does not block is a property which
/// everyone who has got the same one shares, as the caller, or our own standard error.
fn sender(fd: BorrowedFd<'_>) -> io::Result<pipe::Sender> {
    let reopened = pipe_of(fd).and_then(|pipe| pipe::OpenOptions::new().open_sender(pipe));
    reopened.or_else(|_| dup(fd).and_then(pipe::Sender::from_owned_fd))
}

/// Where a pipe can be opened. Nothing else is: to open a terminal may change whose it is.
fn pipe_of(fd: BorrowedFd<'_>) -> io::Result<String> {
    match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Fifo => Ok(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn dup(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

fn socket(fd: OwnedFd) -> io::Result<UnixStream> {
    // Anything but a socket is refused before its flags are changed.
    rustix::net::getsockname(&fd)?;
    let socket = StdUnixStream::from(fd);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
