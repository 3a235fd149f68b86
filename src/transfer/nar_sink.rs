//! Where the bytes of a NAR go.

use std::io;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::verify::Piece;

/// Takes a NAR, piece by piece.
#[async_trait]
pub trait NarSink: Send {
    /// Takes the next piece. Returns when there is room for more.
    ///
    /// # Errors
    /// When nothing more can be taken; the transfer then ends.
    async fn write(&mut self, piece: Piece) -> io::Result<()>;

    /// Takes the next `len` bytes, which are verified and lie in a pipe already.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    async fn write_from_pipe(&mut self, pipe: &mut pipe::Receiver, len: usize) -> io::Result<()> {
        self.write(read_piece(pipe, len).await?).await
    }
}

/// Reads a verified piece of `len` bytes from a pipe.
pub(crate) async fn read_piece(pipe: &mut pipe::Receiver, len: usize) -> io::Result<Piece> {
    let mut bytes = BytesMut::zeroed(len);
    pipe.read_exact(&mut bytes).await?;
    Ok(Piece::verified(bytes.freeze()))
}
