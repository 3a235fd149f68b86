//! Small NARs that were delivered of late. The next caller that wants the same gets them from memory: no host sends them again.
//!
//! Whether some host has a path is none of this: who asks about a path is answered by the hosts. What is here is verified for each
//! caller anew, since it may be promised another content address than the one before.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use moka::sync::Cache;

use super::nar_sink::NarSink;
use super::verify::{Piece, Taken, Verifier};
use crate::model::{NarHash, PathInfo};

/// Larger ones are not kept, in bytes: the time that they take is that of their bytes and not of asking for them.
const NAR_MAX: u64 = 256 << 10;

/// What all of them may take together, in bytes.
const TOTAL_MAX: u64 = 32 << 20;

/// What nobody has wanted for so long is dropped.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// What one takes beside its bytes, in bytes.
const ENTRY: u32 = 256;

/// Small NARs, by their hashes.
pub(super) struct Delivered(Cache<NarHash, Bytes>);

impl Default for Delivered {
    fn default() -> Self {
        let weigh = |_: &NarHash, nar: &Bytes| {
            u32::try_from(nar.len())
                .unwrap_or(u32::MAX)
                .saturating_add(ENTRY)
        };
        let cache = Cache::builder()
            .max_capacity(TOTAL_MAX)
            .weigher(weigh)
            .time_to_idle(KEPT_FOR);
        Self(cache.build())
    }
}

impl Delivered {
    /// Whether a path with this NAR need not be read ahead.
    pub(super) fn has(&self, info: &PathInfo) -> bool {
        info.nar_hash.is_some_and(|hash| self.0.contains_key(&hash))
    }

    /// The NAR of this path, verified.
    pub(super) fn get(&self, info: &PathInfo) -> Option<Vec<Piece>> {
        let nar = self.0.get(&info.nar_hash?)?;
        let mut verifier = Verifier::new(info);
        let mut buf = BytesMut::from(&nar[..]);
        match verifier.take(&mut buf) {
            Ok(Taken::Complete) if buf.is_empty() => verifier.verify().ok(),
            _ => None,
        }
    }

    /// Whether a NAR of that kind is kept when it was delivered.
    pub(super) fn suits(info: &PathInfo) -> bool {
        info.nar_hash.is_some() && (1..=NAR_MAX).contains(&info.nar_size)
    }

    /// Keeps a NAR that was delivered for this path.
    pub(super) fn keep(&self, info: &PathInfo, nar: Vec<u8>) {
        if let Some(hash) = info.nar_hash
            && nar.len() as u64 == info.nar_size
        {
            self.0.insert(hash, nar.into());
        }
    }

    /// Gives memory back. To be called now and then.
    pub(super) fn sweep(&self) {
        self.0.run_pending_tasks();
    }
}

/// A sink that keeps what goes through it.
pub(super) struct KeepingSink<'a> {
    pub(super) sink: &'a mut dyn NarSink,
    pub(super) bytes: Vec<u8>,
}

#[async_trait]
impl NarSink for KeepingSink<'_> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        self.bytes.extend_from_slice(&piece.bytes);
        self.sink.write(piece).await
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::model::StorePath;
    use crate::model::samples::bare;
    use crate::wire::nar::failing_nar;

    fn info(nar: &[u8]) -> PathInfo {
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        PathInfo {
            nar_size: nar.len() as u64,
            nar_hash: Some(NarHash::new(Sha256::digest(nar).into())),
            ..bare(path)
        }
    }

    #[test]
    fn what_was_delivered_is_given_again_if_it_is_what_is_promised() {
        let delivered = Delivered::default();
        let nar = failing_nar("hello");
        let promised = info(&nar);
        assert!(Delivered::suits(&promised) && !delivered.has(&promised));
        delivered.keep(&promised, nar.clone());
        let pieces = delivered.get(&promised).unwrap();
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.bytes.to_vec())
            .collect();
        assert_eq!(bytes, nar);
        // It is promised with another size.
        let mut other = promised.clone();
        other.nar_size += 8;
        assert!(delivered.has(&other) && delivered.get(&other).is_none());
        // What is cut, or of unknown size, is not kept.
        let mut unknown = promised.clone();
        unknown.nar_size = 0;
        assert!(!Delivered::suits(&unknown));
        let fresh = Delivered::default();
        fresh.keep(&promised, nar[..nar.len() - 8].to_vec());
        assert!(!fresh.has(&promised));
    }
}
