//! Decompresses what a host compresses with zstd: one frame.

use std::io;

use zstd::stream::raw::{DParameter, Decoder, Operation};

/// The largest window that is accepted, as a power of two: 8 MiB, what `zstd -19` makes. It bounds the memory that a host
/// can make this side use.
const WINDOW_LOG_MAX: u32 = 23;

/// How much is decompressed at once, in bytes: what a block of zstd holds at most.
const BLOCK_SIZE: usize = 128 << 10;

/// A frame that comes piece by piece.
#[derive(Default)]
pub(super) struct Inflater {
    /// Made when the first bytes come: requests that wait need no memory.
    decoding: Option<(Decoder<'static>, Vec<u8>)>,
    ended: bool,
}

impl Inflater {
    /// Whether the end of the frame has come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Decompresses `input`, no further than to the end of the frame; `take` gets what comes out, and says whether more of
    /// it is wanted. Gives how many bytes of `input` were used.
    ///
    /// # Errors
    /// When that is no frame of zstd's or one with too large a window, or there is no memory.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<usize> {
        let (decoder, block) = match &mut self.decoding {
            Some(decoding) => decoding,
            None => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
                self.decoding.insert((decoder, vec![0; BLOCK_SIZE]))
            }
        };
        let mut used = 0;
        while !self.ended {
            let status = decoder.run_on_buffers(&input[used..], block)?;
            used += status.bytes_read;
            self.ended = status.remaining == 0;
            let is_full = status.bytes_written == block.len();
            if !take(&block[..status.bytes_written]) || (used == input.len() && !is_full) {
                break;
            }
        }
        Ok(used)
    }
}

/// What a whole frame holds, at most `max` bytes; `None` where it is none, holds more, or has too large a window.
pub(super) fn inflate(frame: &[u8], max: usize) -> Option<Vec<u8>> {
    let (mut inflater, mut out) = (Inflater::default(), Vec::new());
    let used = inflater.step(frame, |bytes| {
        out.extend_from_slice(bytes);
        out.len() <= max
    });
    let whole = used.ok()? == frame.len() && inflater.has_ended() && out.len() <= max;
    whole.then_some(out)
}

/// A frame as `zstd -3` makes it.
#[cfg(test)]
pub(super) fn frame(contents: &[u8]) -> Vec<u8> {
    zstd::encode_all(contents, 3).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflate_in_pieces(frame: &[u8], piece: usize) -> io::Result<(Vec<u8>, usize, bool)> {
        let (mut inflater, mut out, mut used) = (Inflater::default(), Vec::new(), 0);
        for piece in frame.chunks(piece) {
            used += inflater.step(piece, |bytes| {
                out.extend_from_slice(bytes);
                true
            })?;
        }
        Ok((out, used, inflater.has_ended()))
    }

    #[test]
    fn a_frame_in_pieces_ends_where_it_ends() {
        let contents: Vec<u8> = (0..400_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        for contents in [&contents[..], b"", &vec![0; 3 * BLOCK_SIZE]] {
            let mut frame = frame(contents);
            let len = frame.len();
            frame.extend_from_slice(b"what follows");
            for piece in [1, 1000, usize::MAX >> 1] {
                let (out, used, ended) = inflate_in_pieces(&frame, piece).unwrap();
                assert!(ended && out == contents, "{} {piece}", contents.len());
                assert_eq!(used, len);
            }
            let (_, _, ended) = inflate_in_pieces(&frame[..len - 1], 1000).unwrap();
            assert!(!ended);
        }
    }

    #[test]
    fn neither_garbage_nor_a_huge_window_is_taken() {
        assert!(inflate_in_pieces(b"no frame at all", 100).is_err());
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(WINDOW_LOG_MAX + 1).unwrap();
        std::io::Write::write_all(&mut encoder, &vec![7; 32 << 20]).unwrap();
        assert!(inflate_in_pieces(&encoder.finish().unwrap(), 1000).is_err());
    }
}
