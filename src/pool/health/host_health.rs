//! The health of one host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::circuit_breaker::{CircuitBreaker, Now, doubt_record, is_doubt, millis};
use super::store::HostStore;
use crate::config::host::Host;

/// What this process knows of one host's health, and what it lets later processes know.
pub(in crate::pool) struct HostHealth {
    key: String,
    pub(in crate::pool) breaker: Mutex<CircuitBreaker>,
    /// Connecting takes longer than with other hosts, and the outcome is open. This process may end before
    /// it knows, so it saves the doubt for later ones.
    pub(in crate::pool) in_doubt: AtomicBool,
    /// It took longer than the hedge delay, here or for an earlier process: no answer is held up by it any
    /// more.
    pub(in crate::pool) slow: AtomicBool,
    /// Held while the store is called, so that what is written last is the newest. Only threads
    /// that may block take it.
    saving: Mutex<()>,
}

/// The right to find out whether a host is back; ends when it is dropped.
pub(in crate::pool) struct Probe(Arc<HostHealth>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.breaker.lock().end_probe();
    }
}

impl HostHealth {
    pub(in crate::pool) fn new(host: &Host) -> Self {
        Self {
            key: host.identity(),
            breaker: Mutex::default(),
            in_doubt: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            saving: Mutex::default(),
        }
    }

    /// What stores know the host by.
    pub(in crate::pool) fn key(&self) -> &str {
        &self.key
    }

    /// The right to probe the host when its pause is over, if nobody else has it.
    pub(in crate::pool) fn probe(self: &Arc<Self>) -> Option<Probe> {
        let is_mine = self.breaker.lock().start_probe(Instant::now());
        is_mine.then(|| Probe(self.clone()))
    }

    /// The right to probe the host before its pause is over, if nobody else has it.
    pub(in crate::pool) fn early_probe(self: &Arc<Self>) -> Option<Probe> {
        let is_mine = self.breaker.lock().start_early_probe();
        is_mine.then(|| Probe(self.clone()))
    }

    /// Learns what earlier processes knew. Blocks.
    pub(super) fn load(&self, store: &dyn HostStore) {
        if let Some(record) = store.health(&self.key) {
            let now = Now::read();
            if is_doubt(&record, now) {
                self.slow.store(true, Ordering::Relaxed);
            }
            self.breaker.lock().merge(&record, now);
        }
    }

    /// Writes what is true by now, which may be more than what it was called for. Blocks.
    pub(super) fn save(&self, store: &dyn HostStore) {
        let _saving = self.saving.lock();
        let theirs = store.health(&self.key);
        let record = {
            let (mut breaker, now) = (self.breaker.lock(), Now::read());
            // Another process may have seen it fail too. After a success that is the past.
            if let Some(theirs) = theirs
                && breaker.has_failures()
            {
                breaker.merge(&theirs, now);
            }
            match breaker.record(now) {
                well if well.failures == 0 && self.in_doubt.load(Ordering::Relaxed) => {
                    doubt_record(now)
                }
                record => record,
            }
        };
        if theirs.unwrap_or_default() != record {
            store.set_health(&self.key, &record);
        }
    }
}

impl Now {
    /// This moment.
    pub(in crate::pool) fn read() -> Self {
        let unix = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            instant: Instant::now(),
            unix: millis(unix),
        }
    }
}
