//! Who takes what an engine brings.

use std::io;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::stdio::Splice;
use crate::transfer::{NarSink, Piece};

/// Takes pieces of a NAR, and bytes that lie ready in a pipe.
#[async_trait]
pub(super) trait Taker: Send {
    async fn take(&mut self, piece: Piece) -> io::Result<()>;

    async fn take_from(&mut self, pipe: &mut pipe::Receiver, len: usize) -> io::Result<()>;
}

/// The caller.
pub(super) struct ToCaller<'a> {
    pub(super) out: &'a mut (dyn AsyncWrite + Send + Unpin),
    /// The same, where bytes can be moved from a pipe without being looked at.
    pub(super) splice: Option<&'a Splice>,
}

#[async_trait]
impl Taker for ToCaller<'_> {
    async fn take(&mut self, piece: Piece) -> io::Result<()> {
        self.out.write_all(&piece.bytes).await
    }

    async fn take_from(&mut self, pipe: &mut pipe::Receiver, len: usize) -> io::Result<()> {
        match self.splice {
            Some(splice) => splice.from(pipe, len).await,
            None => self.take(read(pipe, len).await?).await,
        }
    }
}

/// A sink as any other transfer has.
pub(super) struct ToSink<'a>(pub(super) &'a mut dyn NarSink);

#[async_trait]
impl Taker for ToSink<'_> {
    async fn take(&mut self, piece: Piece) -> io::Result<()> {
        self.0.write(piece).await
    }

    async fn take_from(&mut self, pipe: &mut pipe::Receiver, len: usize) -> io::Result<()> {
        let piece = read(pipe, len).await?;
        self.0.write(piece).await
    }
}

async fn read(pipe: &mut pipe::Receiver, len: usize) -> io::Result<Piece> {
    let mut bytes = BytesMut::zeroed(len);
    pipe.read_exact(&mut bytes).await?;
    Ok(Piece::verified(bytes.freeze()))
}

/// The other way round: a taker as a sink.
pub(super) struct AsSink<'a>(pub(super) &'a mut dyn Taker);

#[async_trait]
impl NarSink for AsSink<'_> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        self.0.take(piece).await
    }
}
