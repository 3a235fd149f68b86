//! What is remembered of hosts that failed to deliver.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::throughput::Throughput;
use crate::model::StorePath;
use crate::pool::{HostId, Pool};
use crate::transfer::error::HostFault;

/// How many paths that came wrongly are remembered.
const SPOILT: usize = 10_000;

/// Who has what, as far as questions have told.
pub trait HolderLookup: Send + Sync {
    /// Who is known by now to have the NAR that callers were told of; `None` when nobody is.
    fn holders(&self, path: &StorePath) -> Option<Arc<[HostId]>>;

    /// A host turned out not to have what it said it had, or sent it wrongly.
    fn on_missing(&self, host: HostId, path: &StorePath);
}

/// The hosts, how fast they are, and what they sent wrongly.
pub(in crate::transfer) struct HostBookkeeping {
    pub(in crate::transfer) pool: Arc<Pool>,
    pub(in crate::transfer) throughput: Arc<Throughput>,
    holder_lookup: Box<dyn HolderLookup>,
    /// What a host sent wrongly once, and what was wrong; it is not asked for it again.
    spoilt: Mutex<HashMap<(HostId, StorePath), HostFault>>,
    /// What was put together wrongly from parts.
    unfit: Mutex<HashSet<StorePath>>,
}

impl HostBookkeeping {
    pub(in crate::transfer) fn new(pool: Arc<Pool>, holder_lookup: Box<dyn HolderLookup>) -> Self {
        Self {
            pool,
            throughput: Arc::default(),
            holder_lookup,
            spoilt: Mutex::default(),
            unfit: Mutex::default(),
        }
    }

    /// Who has a path: those who had it when the caller was told, and those who said so since.
    pub(in crate::transfer) fn holders(&self, path: &StorePath, told: &[HostId]) -> Vec<HostId> {
        let known = self.holder_lookup.holders(path);
        let known = known.iter().flat_map(|known| known.iter());
        let mut all = told.to_vec();
        all.extend(known.filter(|host| !told.contains(host)));
        all
    }

    pub(in crate::transfer) fn sent_wrong_content(&self, host: HostId, path: &StorePath) -> bool {
        self.spoilt().contains_key(&(host, path.clone()))
    }

    /// What was wrong with this path when the host sent it, if it is not asked for it again.
    pub(in crate::transfer) fn known_wrong_content(
        &self,
        host: HostId,
        path: &StorePath,
    ) -> Option<HostFault> {
        let spoilt = self.spoilt();
        let fault = spoilt.get(&(host, path.clone()))?;
        Some(HostFault::FailedBefore(Box::new(fault.clone())))
    }

    pub(in crate::transfer) async fn record_failure(
        &self,
        host: HostId,
        path: &StorePath,
        fault: &HostFault,
    ) {
        match fault {
            HostFault::Remote(error) => self.pool.record_failure(host, error).await,
            HostFault::FailedBefore(_) => log::debug!("{fault}"),
            HostFault::Lacks { .. } => {
                log::debug!("{fault}");
                self.holder_lookup.on_missing(host, path);
            }
            HostFault::Differs { .. } => self.pool.notify(fault),
            HostFault::CannotSend { .. } | HostFault::Unproven { .. } => {
                self.pool.notify(fault);
                self.holder_lookup.on_missing(host, path);
            }
            HostFault::Malformed { .. }
            | HostFault::Mismatch { .. }
            | HostFault::Disproved { .. } => {
                self.pool.notify(fault);
                self.holder_lookup.on_missing(host, path);
                let mut spoilt = self.spoilt();
                if spoilt.len() >= SPOILT {
                    spoilt.clear();
                }
                spoilt.insert((host, path.clone()), fault.clone());
            }
        }
    }

    /// The parts of this path did not make the right NAR: who sent a wrong one cannot be told.
    pub(in crate::transfer) fn record_wrong_chunks(&self, path: &StorePath) {
        let mut unfit = self.unfit();
        if unfit.len() < SPOILT {
            unfit.insert(path.clone());
        }
    }

    pub(in crate::transfer) fn had_wrong_chunks(&self, path: &StorePath) -> bool {
        self.unfit().contains(path)
    }

    fn unfit(&self) -> MutexGuard<'_, HashSet<StorePath>> {
        self.unfit.lock()
    }

    fn spoilt(&self) -> MutexGuard<'_, HashMap<(HostId, StorePath), HostFault>> {
        self.spoilt.lock()
    }
}
