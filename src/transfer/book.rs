//! What is remembered of hosts that failed to deliver.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::HostFault;
use super::rates::Rates;
use crate::model::StorePath;
use crate::pool::{HostId, Pool};

/// How many paths that came wrongly are remembered.
const SPOILT: usize = 10_000;

/// Is told that a host has not got what it said it had, or sent it wrongly.
pub type OnDisappointment = Box<dyn Fn(HostId, &StorePath) + Send + Sync>;

/// The hosts, how fast they are, and what they sent wrongly.
pub(super) struct Book {
    pub(super) pool: Arc<Pool>,
    pub(super) rates: Arc<Rates>,
    on_disappointment: OnDisappointment,
    /// What a host sent wrongly once; it is not asked for it again. Held for a look-up only.
    spoilt: Mutex<HashSet<(HostId, StorePath)>>,
}

impl Book {
    pub(super) fn new(pool: Arc<Pool>, on_disappointment: OnDisappointment) -> Self {
        Self {
            pool,
            rates: Arc::default(),
            on_disappointment,
            spoilt: Mutex::default(),
        }
    }

    pub(super) fn is_spoilt(&self, host: HostId, path: &StorePath) -> bool {
        self.spoilt().contains(&(host, path.clone()))
    }

    pub(super) async fn take_note(&self, host: HostId, path: &StorePath, fault: &HostFault) {
        match fault {
            HostFault::Remote(error) => self.pool.failed(host, error).await,
            HostFault::SpoiltBefore { .. } => log::debug!("{fault}"),
            HostFault::Lacks { .. } => {
                log::debug!("{fault}");
                (self.on_disappointment)(host, path);
            }
            HostFault::Differs { .. } => self.pool.notify(fault),
            HostFault::Malformed { .. } | HostFault::Mismatch { .. } => {
                self.pool.notify(fault);
                (self.on_disappointment)(host, path);
                let mut spoilt = self.spoilt();
                if spoilt.len() >= SPOILT {
                    spoilt.clear();
                }
                spoilt.insert((host, path.clone()));
            }
        }
    }

    fn spoilt(&self) -> MutexGuard<'_, HashSet<(HostId, StorePath)>> {
        self.spoilt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
