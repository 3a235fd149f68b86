//! Asking a host for paths of which only the hash parts are known. The serve protocol has no question for that: a shell looks
//! into the folder of the store, our program into its database.

use std::sync::Arc;

use tokio::time::timeout;

use super::{HostId, Pool, RemoteError};
use crate::model::{HashPart, StorePath};

/// How many hash parts a host is asked about at a time: its shell compares each with each name in the store.
pub const NAMES_AT_ONCE: usize = 64;

impl Pool {
    /// The paths in the store of a host that have one of these hash parts, at most [`NAMES_AT_ONCE`]. What a shell names may
    /// not be valid. `None` where the account gives no names: it runs `nix-store --serve` and nothing else, or takes longer than
    /// connecting may take.
    ///
    /// # Errors
    /// When the host rests after failures, cannot be connected to, or does not answer.
    pub async fn names(
        &self,
        host: HostId,
        store_dir: &str,
        hashes: &[HashPart],
    ) -> Result<Option<Vec<StorePath>>, Arc<RemoteError>> {
        let mut is_second = false;
        loop {
            let Some(mut lease) = self.shell(host).await? else {
                return Ok(None);
            };
            let asked = timeout(self.limits.connect, lease.names(store_dir, hashes));
            match asked.await {
                Ok(Ok(names)) => return Ok(Some(names)),
                // It may have lain idle for long. That a shell ends is no failure of the host.
                Ok(Err(error)) if is_second => return Err(Arc::new(error)),
                Ok(Err(error)) => log::debug!("{error}; trying once more"),
                Err(_) => {
                    log::debug!("{}: no names within the time for connecting", lease.host());
                    return Ok(None);
                }
            }
            is_second = true;
        }
    }
}
