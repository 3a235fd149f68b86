//! The transfers that run, for the status.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::transfer::progress::{ByHost, Outcome, Progress, TransferInfo, TransferProgress};

/// All transfers that run, and counts of those that have ended.
#[derive(Default)]
pub struct TransferRegistry {
    running: Mutex<BTreeMap<u64, Running>>,
    next_id: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

/// A transfer that runs.
#[derive(Debug, Clone)]
pub struct RunningTransfer {
    /// What is transferred, and where its bytes come from now.
    pub info: TransferInfo,
    /// How many bytes have come from which host.
    pub bytes_by_host: BTreeMap<String, u64>,
    /// How many have come.
    pub bytes: u64,
    /// For how long it has run.
    pub time: Duration,
}

struct Running {
    info: TransferInfo,
    /// How many bytes have arrived.
    received: Arc<AtomicU64>,
    /// The first `counted` of them, by host.
    by_host: ByHost,
    counted: u64,
    started: Instant,
}

impl Running {
    /// Adds the bytes that have arrived since the last call to the current host.
    fn count(&mut self) {
        let received = self.received.load(Ordering::Relaxed);
        match received.checked_sub(self.counted) {
            Some(more) => self.by_host.advance(more),
            None => self.by_host.lose(self.counted - received),
        }
        self.counted = received;
    }
}

impl TransferRegistry {
    /// The transfers that run, oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<RunningTransfer> {
        let mut running = self.running.lock();
        let transfers = running.values_mut().map(|running| {
            running.count();
            let sums = running.by_host.sums();
            RunningTransfer {
                info: running.info.clone(),
                bytes_by_host: sums.map(|(host, sum)| (host.to_owned(), sum)).collect(),
                bytes: running.received.load(Ordering::Relaxed),
                time: running.started.elapsed(),
            }
        });
        transfers.collect()
    }

    /// The same as JSON.
    pub(super) fn running_as_json(&self) -> Value {
        let transfers = self.running().into_iter().map(|running| {
            json!({
                "path": running.info.path.as_str(),
                "host": running.info.host,
                "bytesByHost": running.bytes_by_host,
                "bytes": running.bytes,
                "narSize": running.info.total,
                "seconds": running.time.as_secs_f64(),
            })
        });
        transfers.collect()
    }

    /// What has been delivered since the start.
    pub(super) fn delivered(&self) -> Value {
        json!({
            "paths": self.done.load(Ordering::Relaxed),
            "failed": self.failed.load(Ordering::Relaxed),
            "bytes": self.bytes.load(Ordering::Relaxed),
        })
    }
}

/// Registers the transfers of one connection, and keeps their current host for the client.
pub struct SessionProgress {
    pub(super) registry: Arc<TransferRegistry>,
    pub(super) host: Arc<CurrentHost>,
}

impl SessionProgress {
    /// Registers transfers in `registry`.
    #[must_use]
    pub fn new(registry: Arc<TransferRegistry>) -> Self {
        let host = Arc::default();
        Self { registry, host }
    }
}

/// The host that the NAR on a connection comes from.
#[derive(Default)]
pub(super) struct CurrentHost(Mutex<Option<String>>);

impl CurrentHost {
    fn set(&self, host: &str) {
        *self.0.lock() = Some(host.to_owned());
    }

    /// The host, if it has changed since the last call.
    pub(super) fn take_change(&self) -> Option<String> {
        self.0.lock().take()
    }
}

impl Progress for SessionProgress {
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress> {
        self.host.set(&transfer.host);
        let id = self.registry.next_id.fetch_add(1, Ordering::Relaxed);
        let received = Arc::new(AtomicU64::new(0));
        let mut by_host = ByHost::default();
        by_host.set_host(&transfer.host);
        let running = Running {
            info: transfer.clone(),
            received: received.clone(),
            by_host,
            counted: 0,
            started: Instant::now(),
        };
        self.registry.running.lock().insert(id, running);
        Box::new(TransferGuard {
            registry: self.registry.clone(),
            host: self.host.clone(),
            id,
            received,
            done: false,
        })
    }
}

/// Removes its transfer from the registry when dropped.
struct TransferGuard {
    registry: Arc<TransferRegistry>,
    host: Arc<CurrentHost>,
    id: u64,
    received: Arc<AtomicU64>,
    done: bool,
}

impl TransferProgress for TransferGuard {
    fn advance(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.registry.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn set_host(&self, host: &str) {
        self.host.set(host);
        if let Some(running) = self.registry.running.lock().get_mut(&self.id) {
            running.count();
            running.by_host.set_host(host);
            host.clone_into(&mut running.info.host);
        }
    }

    fn lose(&self, bytes: u64) {
        self.received.fetch_sub(bytes, Ordering::Relaxed);
        self.registry.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn finish(mut self: Box<Self>, outcome: Outcome) {
        self.done = outcome == Outcome::Done;
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.registry.running.lock().remove(&self.id);
        let count = match self.done {
            true => &self.registry.done,
            false => &self.registry.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
