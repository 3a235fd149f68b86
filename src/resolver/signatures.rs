//! Signatures are verified when a path is asked for. For many paths at once that takes seconds, so it is done on
//! a thread that may block.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::ResolverCore;
use crate::model::StorePath;

/// How many are verified inline: that takes some milliseconds, at about 0.1 ms each.
const INLINE_MAX: usize = 32;

impl ResolverCore {
    /// To be called before the records of many paths are read: verifies their signatures, many of them on a
    /// thread that may block.
    pub(super) async fn verify_ahead(self: &Arc<Self>, paths: impl Iterator<Item = &StorePath>) {
        let has_unverified = |path: &&StorePath| self.cache.has_unverified(path);
        let unverified: Vec<StorePath> = paths.filter(has_unverified).cloned().collect();
        if unverified.len() <= INLINE_MAX {
            return;
        }
        let core = self.clone();
        let verify = move || {
            for path in unverified {
                core.cache.get(&path);
            }
        };
        if let Err(error) = spawn_blocking(verify).await {
            log::debug!("signatures are looked at one by one: {error}");
        }
    }
}
