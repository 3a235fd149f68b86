//! Signatures are looked at when somebody wants the path. Where many are wanted together, that takes
//! seconds, in which a thread of the runtime would do nothing else.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::Inner;
use crate::model::StorePath;

/// As many as are looked at on the spot: some milliseconds, at about 0.1 ms each.
const ON_THE_SPOT: usize = 32;

impl Inner {
    /// To be called before a look at what is known of many paths: looks at their signatures where
    /// nobody has yet, on a thread that may take its time.
    pub(super) async fn verify_ahead(self: &Arc<Self>, paths: impl Iterator<Item = &StorePath>) {
        let is_untried = |path: &&StorePath| self.memory.is_untried(path);
        let untried: Vec<StorePath> = paths.filter(is_untried).cloned().collect();
        if untried.len() <= ON_THE_SPOT {
            return;
        }
        let inner = self.clone();
        let verify = move || {
            for path in untried {
                inner.memory.get(&path);
            }
        };
        if let Err(error) = spawn_blocking(verify).await {
            log::debug!("signatures are looked at one by one: {error}");
        }
    }
}
