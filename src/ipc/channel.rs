//! Bytes between a front end and its engine, and file descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, SendAncillaryBuffer, SendAncillaryMessage, recvmsg,
    sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::sys::sockets;

/// Buffer for one read, in bytes.
const READ_SIZE: usize = 32 << 10;

/// One side of a connection.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

/// What one read gave.
#[derive(Debug)]
pub struct Received {
    /// How many bytes; 0 is the end.
    pub len: usize,
    /// The file descriptor that came beside them.
    pub fd: Option<OwnedFd>,
}

impl Channel {
    /// The channel on a connection.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The connection alone.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// The user id at the other end.
    ///
    /// # Errors
    /// Those of the system.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.stream.peer_cred()?.uid())
    }

    /// Reads once, and appends to the buffer.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn fill(&self, buf: &mut BytesMut) -> io::Result<Received> {
        let mut bytes = vec![0; READ_SIZE];
        let (len, fd) = self
            .stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut bytes)];
                let flags = sockets::receive_flags();
                let got = recvmsg(&self.stream, &mut parts, &mut control, flags)?;
                let fd = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                Ok((got.bytes, fd.map(sockets::received).transpose()?))
            })
            .await?;
        buf.extend_from_slice(&bytes[..len]);
        Ok(Received { len, fd })
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || {
                let mut control = SendAncillaryBuffer::default();
                send_once(self.stream.as_fd(), bytes, &mut control)
            });
            bytes = &bytes[sent.await?..];
        }
        Ok(())
    }

    /// Writes all bytes (at least one), with a file descriptor beside the first one.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn send_with_fd(&self, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [fd];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            send_once(self.stream.as_fd(), bytes, &mut control)
        });
        let sent = sent.await?;
        self.send(&bytes[sent..]).await
    }
}

fn send_once(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    control: &mut SendAncillaryBuffer<'_, '_, '_>,
) -> io::Result<usize> {
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &bytes, control, sockets::send_flags())?)
}
