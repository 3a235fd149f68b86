//! A frame of `zstd`'s that has come whole.

use zstd::zstd_safe::{DCtx, get_error_name};

/// Why a frame cannot be decompressed, for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameError(pub &'static str);

const NO_MEMORY: FrameError = FrameError("there is no memory for it");
const OTHER_LENGTH: FrameError = FrameError("it holds another number of bytes");

/// Decompresses a whole frame that holds `len` bytes, and that was made against `prefix` (`zstd --patch-from`), which is
/// empty where it was made without. No more than `len` bytes are allocated.
///
/// # Errors
/// When it is no such frame, its checksum is wrong (as it is with another prefix), or it holds another number of bytes.
pub fn decompress(frame: &[u8], prefix: &[u8], len: usize) -> Result<Vec<u8>, FrameError> {
    let error = |code| FrameError(get_error_name(code));
    let mut context = DCtx::try_create().ok_or(NO_MEMORY)?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(error)?;
    }
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| NO_MEMORY)?;
    context.decompress(&mut out, frame).map_err(error)?;
    match out.len() == len {
        true => Ok(out),
        false => Err(OTHER_LENGTH),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(seed: u32, len: usize) -> Vec<u8> {
        let words = (0..).map(|n: u32| n.wrapping_mul(2_654_435_761) ^ seed);
        let mut text: Vec<u8> = words.take(len / 4 + 1).flat_map(u32::to_le_bytes).collect();
        text.truncate(len);
        text
    }

    fn patch(old: &[u8], new: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), 3, old).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(new).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_patch_gives_the_new_file() {
        let old = text(1, 3 << 20);
        let mut new = old.clone();
        new[1_000_000] ^= 1;
        new.truncate(new.len() - 5);
        let patch = patch(&old, &new);
        assert!(patch.len() < 1000, "{}", patch.len());
        assert_eq!(decompress(&patch, &old, new.len()).unwrap(), new);
        let longer = decompress(&patch, &old, new.len() + 1);
        assert_eq!(longer, Err(OTHER_LENGTH));
        assert!(decompress(&patch, &old, new.len() - 1).is_err());
    }

    #[test]
    fn another_base_is_noticed() {
        let (old, new) = (text(1, 100_000), text(1, 100_010));
        let patch = patch(&old, &new);
        let mut wrong = old.clone();
        wrong[50_000] ^= 1;
        for base in [&wrong[..], &old[..99_999], b""] {
            assert!(decompress(&patch, base, new.len()).is_err());
        }
        assert!(decompress(b"no frame", b"", 8).is_err());
    }
}
