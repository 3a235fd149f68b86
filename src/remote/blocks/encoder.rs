//! Whether a block is compressed, by what came of the last ones. [`Encoder`] takes times as arguments.

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::remote::is_incompressible;

/// After how many blocks in a row that went as they are the next one is compressed, to see: doubled while that is in vain.
const SKIP_MAX: u32 = 15;

/// After how many blocks an encoder that was slower than the link is tried again.
const SLOW_SKIP: u32 = 63;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compress {
    /// The level for zstd, 1 to 19.
    pub level: u8,
    /// How many bytes a second the link takes as they are: an encoder that is slower is of no use. `None`: whatever it takes.
    pub link_rate: Option<u64>,
}

impl Compress {
    /// How many bytes these become; `None` when there is no memory for it.
    pub async fn len_of(self, bytes: Bytes) -> Option<usize> {
        let frame = spawn_blocking(move || compress(&bytes, self.level));
        Some(frame.await.ok()??.len())
    }
}

/// What came of blocks that were compressed.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// So many blocks go as they are.
    skip: u32,
    in_vain: u32,
}

impl Encoder {
    /// Whether the next block is to be compressed.
    pub(super) fn choose(&mut self) -> bool {
        if self.skip == 0 {
            return true;
        }
        self.skip -= 1;
        false
    }

    /// A block of `len` bytes was compressed to `wire_len` in `secs`. Whether it goes that way.
    pub(super) fn record(&mut self, how: Compress, len: usize, wire_len: usize, secs: f64) -> bool {
        if is_incompressible(len as u64, wire_len as u64) {
            self.in_vain = (2 * self.in_vain + 1).min(SKIP_MAX);
            self.skip = self.in_vain;
            return false;
        }
        self.in_vain = 0;
        let rate = len as f64 / secs.max(1e-6);
        if how
            .link_rate
            .is_some_and(|link_rate| rate < link_rate as f64)
        {
            self.skip = SLOW_SKIP;
        }
        true
    }
}

/// One frame; `None` when there is no memory for it.
pub(super) fn compress(block: &[u8], level: u8) -> Option<Vec<u8>> {
    zstd::bulk::compress(block, i32::from(level)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: Compress = Compress {
        level: 3,
        link_rate: Some(10_000_000),
    };

    /// How many of so many blocks are compressed.
    fn tried(blocks: usize, how: Compress, wire_len: usize, secs: f64) -> usize {
        let mut encoder = Encoder::default();
        let tries = (0..blocks).filter(|_| {
            let is_tried = encoder.choose();
            if is_tried {
                encoder.record(how, 1000, wire_len, secs);
            }
            is_tried
        });
        tries.count()
    }

    #[test]
    fn what_gets_smaller_is_compressed_and_what_does_not_is_tried_now_and_then() {
        assert_eq!(tried(1000, HOW, 500, 1e-5), 1000);
        let random = tried(1000, HOW, 1001, 1e-5);
        assert!((10..100).contains(&random), "{random}");
        let mut encoder = Encoder::default();
        assert!(!encoder.record(HOW, 1000, 960, 1e-5));
        assert!(encoder.record(HOW, 1000, 940, 1e-5));
    }

    #[test]
    fn an_encoder_that_is_slower_than_the_link_is_of_no_use_unless_it_must_be() {
        let slow = tried(1000, HOW, 500, 1e-3);
        assert!((10..30).contains(&slow), "{slow}");
        let always = Compress {
            link_rate: None,
            ..HOW
        };
        assert_eq!(tried(1000, always, 500, 1e-3), 1000);
    }
}
