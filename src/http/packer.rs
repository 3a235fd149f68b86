//! NARs compressed while they are sent.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::task::spawn_blocking;
use zstd::stream::write::Encoder;

/// zstd's own default: faster than most networks, and nearly as small as what takes ten times as long.
const LEVEL: i32 = 3;

/// More than this at once, in bytes, is compressed on a thread of its own: it takes about a millisecond.
const INLINE_MAX: usize = 64 << 10;

/// Compresses a NAR of a known size into one frame, piece by piece. The frame has no end unless all of it has come.
pub(super) struct Packer {
    /// `None` while a thread has it, and after it failed.
    encoder: Option<Encoder<'static, Vec<u8>>>,
}

impl Packer {
    /// For a NAR of so many bytes: a small one needs little memory, others some 4 MiB.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn new(size: u64) -> io::Result<Self> {
        let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
        encoder.set_pledged_src_size(Some(size))?;
        Ok(Self {
            encoder: Some(encoder),
        })
    }

    /// Compresses the next bytes of the NAR. What comes out, if anything does, may be of earlier ones.
    ///
    /// # Errors
    /// When there is no memory for it, or more come than there were to be.
    pub(super) async fn pack(&mut self, bytes: Bytes) -> io::Result<Bytes> {
        let mut encoder = self.encoder.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let len = bytes.len();
        let pack = move || {
            encoder.write_all(&bytes)?;
            let packed = std::mem::take(encoder.get_mut());
            Ok::<_, io::Error>((encoder, packed))
        };
        let (encoder, packed) = match len > INLINE_MAX {
            true => spawn_blocking(pack).await.map_err(io::Error::other)?,
            false => pack(),
        }?;
        self.encoder = Some(encoder);
        Ok(packed.into())
    }

    /// The end of the frame.
    ///
    /// # Errors
    /// When fewer bytes came than there were to be.
    pub(super) fn finish(self) -> io::Result<Bytes> {
        let encoder = self.encoder.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(encoder.finish()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_ends_only_when_all_has_come() {
        let nar: Vec<u8> = (0..900_000_u32).flat_map(u32::to_le_bytes).collect();
        for (said, is_whole) in [(0, true), (1, false)] {
            let mut packer = Packer::new(nar.len() as u64 + said).unwrap();
            let mut frame = Vec::new();
            for piece in [&nar[..10], &nar[10..700_000], &nar[700_000..]] {
                let piece = Bytes::copy_from_slice(piece);
                frame.extend_from_slice(&packer.pack(piece).await.unwrap());
            }
            assert!(zstd::decode_all(&frame[..]).is_err());
            match packer.finish() {
                Ok(end) => frame.extend_from_slice(&end),
                Err(_) => assert!(!is_whole),
            }
            assert_eq!(
                zstd::decode_all(&frame[..]).is_ok_and(|got| got == nar),
                is_whole
            );
        }
    }

    #[tokio::test]
    async fn more_than_there_was_to_be_is_an_error() {
        let mut packer = Packer::new(5).unwrap();
        let come = packer.pack(Bytes::from_static(b"0123456789")).await;
        assert!(come.is_err() || packer.finish().is_err());
    }
}
