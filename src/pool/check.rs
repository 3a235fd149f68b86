//! Whether hosts have now what they are known to have had.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::slot::Slot;
use super::trouble::Probe;
use super::{HostId, Pool};
use crate::model::StorePath;
use crate::remote::{RemoteError, valid_paths};

/// A host that may be asked now, with the right to find out whether it is back where that is in doubt.
pub struct Askable {
    slot: Arc<Slot>,
    _probe: Option<Probe>,
}

impl Askable {
    /// The host.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.slot.id
    }

    /// Those of `paths` that the host has, in one request.
    ///
    /// # Errors
    /// When the host fails.
    pub async fn valid_paths(
        self,
        paths: &Arc<[StorePath]>,
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        let begun = Instant::now();
        let request = [valid_paths(paths)];
        let exchange = self.slot.exchange(&request, |lease| {
            let paths = paths.clone();
            Box::pin(async move { lease.finish_valid_paths(&paths).await })
        });
        let valid = exchange.await?;
        if begun.elapsed() <= self.slot.limits.hedge {
            self.slot.kept.slow.store(false, Ordering::Relaxed);
        }
        Ok(valid)
    }
}

impl Pool {
    /// The hosts that may be asked now, in order: those that [`Pool::ask_each`] would ask. When that is
    /// none, the user is told once.
    pub async fn askable_hosts(&self) -> Vec<Askable> {
        self.load().await;
        let (slots, mut probes) = self.askable(&[]);
        let askable = |slot: Arc<Slot>| Askable {
            _probe: probes.remove(&slot.id),
            slot,
        };
        slots.into_iter().map(askable).collect()
    }

    /// Whether there is a connection to a host that works as far as can be told without asking.
    #[must_use]
    pub fn is_connected(&self, host: HostId) -> bool {
        self.slots[host.0].is_connected()
    }

    /// To be called when a host has held up for the hedge delay what another one has answered: it is
    /// not waited for again until it answers in time.
    pub async fn took_too_long(&self, host: HostId) {
        self.slots[host.0].took_too_long().await;
    }
}
