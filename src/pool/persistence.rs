//! What is known of hosts' health, between this process and the store for later ones.

use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use tokio::time::timeout;

use super::health::{CircuitBreaker, HealthStore, Now, Record};
use crate::config::host::Host;

/// How long the store may hold up work. What takes longer goes on without being waited for.
const STORE_TIMEOUT: Duration = Duration::from_millis(300);

/// The health of one host.
pub(super) struct HostHealth {
    key: String,
    // Held for a few instructions, never over a call of the store.
    pub(super) breaker: Mutex<CircuitBreaker>,
    /// No connection has come about for longer than others take, and none has failed yet: this
    /// process may end before it knows, so later ones are told what it fears.
    pub(super) in_doubt: AtomicBool,
    /// It took longer than the hedge delay, here or for an earlier process, and no answer is held up
    /// by it any more.
    pub(super) slow: AtomicBool,
    /// Held while the store is called, so that what is written last is the newest. Only threads
    /// that may block take it.
    saving: Mutex<()>,
}

impl HostHealth {
    pub(super) fn new(host: &Host) -> Self {
        Self {
            key: host.identity(),
            breaker: Mutex::default(),
            in_doubt: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            saving: Mutex::default(),
        }
    }

    /// What stores know the host by.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    fn load(&self, store: &dyn HealthStore) {
        if let Some(record) = store.load(&self.key) {
            let now = now();
            if record.is_doubt(now) {
                self.slow.store(true, Ordering::Relaxed);
            }
            self.breaker.lock().merge(&record, now);
        }
    }

    /// Writes what is true by now, which may be more than what it was called for.
    fn save(&self, store: &dyn HealthStore) {
        let _saving = self.saving.lock();
        let theirs = store.load(&self.key);
        let record = {
            let (mut breaker, now) = (self.breaker.lock(), now());
            // Another process may have seen it fail too. After a success that is the past.
            if let Some(theirs) = theirs
                && breaker.has_failures()
            {
                breaker.merge(&theirs, now);
            }
            match breaker.record(now) {
                well if well.failures == 0 && self.in_doubt.load(Ordering::Relaxed) => {
                    Record::doubt(now)
                }
                record => record,
            }
        };
        if theirs.unwrap_or_default() != record {
            store.save(&self.key, &record);
        }
    }
}

/// Calls the store where blocking does no harm.
#[derive(Clone)]
pub(super) struct HealthPersistence {
    store: Option<Arc<dyn HealthStore>>,
    chance: Arc<AtomicU64>,
}

impl HealthPersistence {
    pub(super) fn new(store: Option<Arc<dyn HealthStore>>) -> Self {
        // The standard library's hasher is keyed at random.
        let chance = RandomState::new().hash_one(0);
        Self {
            store,
            chance: Arc::new(AtomicU64::new(chance)),
        }
    }

    /// From now on chance goes the way that the seed says.
    pub(super) fn seed(&self, seed: u64) {
        self.chance.store(seed, Ordering::Relaxed);
    }

    /// Another number each time, good enough to keep processes from marching in step.
    pub(super) fn random(&self) -> u32 {
        // SplitMix64: a counter, and its bits well mixed.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self
            .chance
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 32) as u32
    }

    /// Learns what earlier processes knew of these hosts.
    pub(super) async fn load(&self, all: Vec<Arc<HostHealth>>) {
        self.call(move |store| {
            for health in all {
                health.load(store);
            }
        })
        .await;
    }

    /// Lets later processes know.
    pub(super) async fn save(&self, health: &Arc<HostHealth>) {
        let health = health.clone();
        self.call(move |store| health.save(store)).await;
    }

    /// As [`HealthPersistence::save`], where nobody can wait for it.
    pub(super) fn save_later(&self, health: &Arc<HostHealth>) {
        if let (Some(store), Ok(runtime)) =
            (self.store.clone(), tokio::runtime::Handle::try_current())
        {
            let health = health.clone();
            runtime.spawn_blocking(move || health.save(&*store));
        }
    }

    async fn call(&self, job: impl FnOnce(&dyn HealthStore) + Send + 'static) {
        if let Some(store) = self.store.clone() {
            call_store("what is known of the hosts' health", move || job(&*store)).await;
        }
    }
}

/// Calls a store where blocking does no harm, and waits for it only so long. `what` it does is for
/// the log.
pub(super) async fn call_store<T: Send + 'static>(
    what: &str,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match timeout(STORE_TIMEOUT, tokio::task::spawn_blocking(job)).await {
        Ok(done) => done.ok(),
        Err(_) => {
            log::debug!("{what} takes too long; going on without");
            None
        }
    }
}

pub(super) fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        instant: Instant::now(),
        unix: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
    }
}
