//! Standard input and output. If they are pipes or sockets, as Nix makes them, no thread stands in between.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::fs::FileType;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::serve::{Output, Splice};
use crate::sys::pipes;

/// Requested capacity of a pipe, in bytes.
const PIPE_CAPACITY: usize = 1 << 20;

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

/// Standard output. To be called once: the output of two writers would mix.
#[must_use]
pub fn stdout() -> Box<dyn AsyncWrite + Send + Unpin> {
    let stdout = io::stdout();
    if let Ok(sender) = sender(stdout.as_fd()) {
        pipes::enlarge(&stdout, PIPE_CAPACITY);
        return Box::new(sender);
    }
    if let Ok(socket) = dup(stdout.as_fd()).and_then(socket) {
        return Box::new(socket);
    }
    Box::new(tokio::io::stdout())
}

/// Whether this program was started by a Lix that reads its stderr: Lix (2.95 and newer) gives one socket as standard
/// input and output, and shows lines that are not in Nix's own form only with debugging. A
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

/// Standard output for a serve loop, which can move bytes there from another pipe if it is a pipe itself.
#[must_use]
pub fn serve_output() -> Output<Box<dyn AsyncWrite + Send + Unpin>> {
    let splice = sender(io::stdout().as_fd()).ok().and_then(Splice::new);
    let writer = stdout();
    Output { writer, splice }
}

/// Waits until the reader of standard output has gone. Never returns where that cannot be detected (a file, a terminal).
pub async fn stdout_closed() {
    let stdout = io::stdout();
    let fd = stdout.as_fd();
    let closed = if let Ok(sender) = sender(fd) {
        pipes::closed(fd, |interest| sender.ready(interest)).await
    } else if let Ok(socket) = dup(fd).and_then(socket) {
        pipes::closed(fd, |interest| socket.ready(interest)).await
    } else {
        Err(io::ErrorKind::Unsupported.into())
    };
    if closed.is_err() {
        std::future::pending().await
    }
}

/// Opens a pipe anew if possible: O_NONBLOCK belongs to the open file, which the caller or our own stderr may share.
fn sender(fd: BorrowedFd<'_>) -> io::Result<pipe::Sender> {
    let reopened = pipe_of(fd).and_then(|pipe| pipe::OpenOptions::new().open_sender(pipe));
    reopened.or_else(|_| dup(fd).and_then(pipe::Sender::from_owned_fd))
}

/// The path that opens a pipe anew. Only pipes are: opening a terminal may make it the controlling one.
fn pipe_of(fd: BorrowedFd<'_>) -> io::Result<String> {
    match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Fifo => pipes::path_of(fd),
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
