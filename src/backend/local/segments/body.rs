//! The body of a reply: compressed or not, in pieces.

use std::io::{self, Write};

use tokio::sync::mpsc;

use super::Refusal;
use crate::wire::serve::extension::put_piece_head;

/// How long a piece of a body is at most, in bytes: what a pipe holds on Linux.
const PIECE: usize = 64 << 10;

/// Windows of deltas, as powers of two: what zstd has at least, and more than the longest part of a base. No more memory is
/// taken than what is in them.
const MIN_WINDOW_LOG: u32 = 10;
const MAX_WINDOW_LOG: u32 = 27;

/// Cuts a body into pieces.
pub(super) struct Body {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

/// Whether the caller takes what is made.
pub(super) struct Wanted(mpsc::Sender<Vec<u8>>);

impl Wanted {
    /// Fails when the caller has gone away.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.0.is_closed() {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

impl Body {
    pub(super) fn new(pieces: mpsc::Sender<Vec<u8>>) -> Self {
        let piece = Vec::new();
        Self { pieces, piece }
    }

    pub(super) fn wanted(&self) -> Wanted {
        Wanted(self.pieces.clone())
    }

    /// Makes the whole body of what `write` writes, `len` bytes if that is known. What it flushes is sent at once.
    pub(super) fn fill(
        &mut self,
        level: u8,
        len: Option<u64>,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if level == 0 {
            write(self)?;
        } else {
            let mut encoder = zstd::Encoder::new(&mut *self, i32::from(level))?;
            // Windows are no larger than what is in them.
            encoder.set_pledged_src_size(len)?;
            write(&mut encoder)?;
            encoder.finish()?;
        }
        Ok(self.flush()?)
    }

    /// Makes the whole body of what `write` writes, `len` bytes, as a frame that refers to `prefix`.
    pub(super) fn fill_against(
        &mut self,
        prefix: &[u8],
        level: u8,
        len: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut encoder = zstd::Encoder::with_ref_prefix(&mut *self, i32::from(level), prefix)?;
        encoder.include_checksum(true)?;
        encoder.long_distance_matching(true)?;
        // What stands at the same place of both is in reach.
        let reach = len.max(prefix.len() as u64);
        let bits = u64::BITS - reach.leading_zeros();
        encoder.window_log(bits.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG))?;
        encoder.set_pledged_src_size(Some(len))?;
        write(&mut encoder)?;
        encoder.finish()?;
        Ok(self.flush()?)
    }
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..len]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let mut framed = Vec::with_capacity(8 + self.piece.len());
        put_piece_head(&mut framed, self.piece.len());
        framed.append(&mut self.piece);
        let sent = self.pieces.blocking_send(framed);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::serve::extension::{MAX_LEVEL, max_frame_len};

    #[test]
    fn what_does_not_compress_is_no_longer_than_a_frame_may_be() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(1 << 20)
        .collect();
        for len in [0, 1, 1000, noise.len()] {
            for level in [1, 3, MAX_LEVEL.into()] {
                let frame = zstd::encode_all(&noise[..len], level).unwrap();
                assert!(frame.len() as u64 <= max_frame_len(len as u64));
            }
        }
    }
}
