//! Asking hosts whether they still have paths that they are known to have had.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::health::Probe;
use super::host::{EARLY_PROBE_TIMEOUT, HostPool};
use super::{HostId, Pool};
use crate::model::StorePath;
use crate::remote::{RemoteError, valid_paths};

/// A host that may be asked now, with the right to probe it where it has failed.
pub struct Askable {
    host_pool: Arc<HostPool>,
    _probe: Option<Probe>,
    /// It rests, and is probed before its pause is over.
    is_early: bool,
}

impl Askable {
    /// The host.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.host_pool.id
    }

    /// Those of `paths` that the host has, in one request.
    ///
    /// # Errors
    /// When the host fails; one that rests also when it does not answer soon.
    pub async fn valid_paths(
        self,
        paths: &Arc<[StorePath]>,
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        let begun = Instant::now();
        let request = [valid_paths(paths)];
        let exchange = self.host_pool.exchange(&request, |lease| {
            let paths = paths.clone();
            Box::pin(async move { lease.finish_valid_paths(&paths).await })
        });
        let limit = match self.is_early {
            true => EARLY_PROBE_TIMEOUT,
            false => Duration::MAX,
        };
        let valid = timeout(limit, exchange).await;
        let valid = valid.unwrap_or_else(|_| Err(self.host_pool.resting_error()))?;
        if begun.elapsed() <= self.host_pool.limits.hedge {
            self.host_pool.health.slow.store(false, Ordering::Relaxed);
        }
        Ok(valid)
    }
}

impl Pool {
    /// The hosts that may be asked now, in order: those that [`Pool::ask_each`] would ask, and of the `wanted`
    /// ones also those that rest and were not probed since their failure.
    pub async fn askable_hosts(&self, wanted: impl Fn(HostId) -> bool) -> Vec<Askable> {
        self.load().await;
        let (hosts, mut probes) = self.askable(&[]);
        let askable = |host_pool: &Arc<HostPool>| {
            let is_early = !hosts.iter().any(|other| other.id == host_pool.id);
            let mut probe = probes.remove(&host_pool.id);
            if is_early {
                if !wanted(host_pool.id) {
                    return None;
                }
                probe = host_pool.retry_probe();
                if probe.is_none() && !host_pool.may_join_probe() {
                    return None;
                }
            }
            Some(Askable {
                host_pool: host_pool.clone(),
                _probe: probe,
                is_early,
            })
        };
        self.hosts.iter().filter_map(askable).collect()
    }

    /// Whether there is a connection to a host that works as far as can be told without asking.
    #[must_use]
    pub fn is_connected(&self, host: HostId) -> bool {
        self.hosts[host.0].is_connected()
    }

    /// To be called when a host has held up another one's answer for the hedge delay. It is not waited for
    /// again until it answers in time.
    pub async fn took_too_long(&self, host: HostId) {
        self.hosts[host.0].took_too_long().await;
    }
}
