//! Signatures are looked at when somebody wants the path. Where many are wanted together, that takes
//! seconds, in which a thread of the runtime would do nothing else.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::ResolverCore;
use crate::model::StorePath;

/// As many as are looked at on the spot: some milliseconds, at about 0.1 ms each.
const INLINE_MAX: usize = 32;

impl ResolverCore {
    /// To be called before a look at what is known of many paths: looks at their signatures where
    /// nobody has yet, on a thread that may take its time.
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
