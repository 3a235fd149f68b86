//! Where a serve loop writes its replies.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::sys::pipes;
use crate::transfer::{NarSink, Piece, read_piece};

/// The writing side of a caller's connection.
pub struct Output<W> {
    /// All replies go here. It must not buffer when there is a `splice`.
    pub writer: W,
    /// The same pipe, where `writer` is one.
    pub splice: Option<Splice>,
}

impl<W> Output<W> {
    /// Without a splice.
    pub fn new(writer: W) -> Self {
        let splice = None;
        Self { writer, splice }
    }
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> NarSink for Output<W> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        self.writer.write_all(&piece.bytes).await
    }

    async fn write_from_pipe(&mut self, pipe: &mut pipe::Receiver, len: usize) -> io::Result<()> {
        match &self.splice {
            Some(splice) => splice.transfer(pipe, len).await,
            None => self.write(read_piece(pipe, len).await?).await,
        }
    }
}

/// A pipe to which bytes can be moved from another pipe without copying them through this process.
pub struct Splice(pipe::Sender);

impl Splice {
    /// Bytes are moved to `pipe`. `None` where the system cannot do so.
    #[must_use]
    pub fn new(pipe: pipe::Sender) -> Option<Self> {
        pipes::HAS_SPLICE.then_some(Self(pipe))
    }

    /// Moves `len` bytes, all of which are in the pipe already.
    async fn transfer(&self, pipe: &pipe::Receiver, mut len: usize) -> io::Result<()> {
        while len > 0 {
            self.0.writable().await?;
            match self.0.try_io(|| pipes::splice(pipe, &self.0, len)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => len -= moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
