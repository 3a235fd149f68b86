//! Between what this process knows of hosts and the store for later ones.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::host_health::HostHealth;
use super::store::HostStore;

/// How long the store may hold up work. A slower call goes on, but is no longer waited for.
const STORE_TIMEOUT: Duration = Duration::from_millis(300);

/// Calls the store on threads that may block, and gives jitter.
#[derive(Clone)]
pub(in crate::pool) struct HostPersistence {
    store: Option<Arc<dyn HostStore>>,
    jitter: Arc<AtomicU64>,
}

impl HostPersistence {
    pub(in crate::pool) fn new(store: Option<Arc<dyn HostStore>>) -> Self {
        // The standard library's hasher is keyed at random.
        let jitter = RandomState::new().hash_one(0);
        Self {
            store,
            jitter: Arc::new(AtomicU64::new(jitter)),
        }
    }

    /// From now on [`HostPersistence::random`] follows from this seed.
    pub(in crate::pool) fn seed(&self, seed: u64) {
        self.jitter.store(seed, Ordering::Relaxed);
    }

    /// Another number each time, random enough for jitter.
    pub(in crate::pool) fn random(&self) -> u32 {
        // SplitMix64: a counter, and its bits well mixed.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self
            .jitter
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 32) as u32
    }

    /// Reads what earlier processes knew of these hosts.
    pub(in crate::pool) async fn load(&self, all: Vec<Arc<HostHealth>>) {
        self.call(move |store| {
            for health in all {
                health.load(store);
            }
        })
        .await;
    }

    /// Lets later processes know, and waits until they can.
    pub(in crate::pool) async fn save(&self, health: &Arc<HostHealth>) {
        let health = health.clone();
        self.call(move |store| health.save(store)).await;
    }

    /// As [`HostPersistence::save`], without waiting.
    pub(in crate::pool) fn save_later(&self, health: &Arc<HostHealth>) {
        if let (Some(store), Ok(runtime)) =
            (self.store.clone(), tokio::runtime::Handle::try_current())
        {
            let health = health.clone();
            runtime.spawn_blocking(move || health.save(&*store));
        }
    }

    /// Whether a host's account has a shell, where an earlier process found out.
    pub(in crate::pool) async fn has_shell(&self, health: &HostHealth) -> Option<bool> {
        let key = health.key().to_owned();
        self.call(move |store| store.has_shell(&key)).await?
    }

    /// Lets later processes know whether a host's account has a shell.
    pub(in crate::pool) async fn set_has_shell(&self, health: &HostHealth, has_shell: bool) {
        let key = health.key().to_owned();
        self.call(move |store| {
            if store.has_shell(&key) != Some(has_shell) {
                store.set_has_shell(&key, has_shell);
            }
        })
        .await;
    }

    /// Whether an earlier process found that a host's program speaks the extension.
    pub(in crate::pool) async fn has_extension(&self, health: &HostHealth) -> bool {
        let key = health.key().to_owned();
        let known = self.call(move |store| store.has_extension(&key)).await;
        known.unwrap_or_default()
    }

    /// Lets later processes know that a host's program speaks the extension.
    pub(in crate::pool) async fn set_has_extension(&self, health: &HostHealth) {
        let key = health.key().to_owned();
        self.call(move |store| {
            if !store.has_extension(&key) {
                store.set_has_extension(&key);
            }
        })
        .await;
    }

    /// Calls the store on a thread that may block, and waits for it at most [`STORE_TIMEOUT`].
    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn HostStore) -> T + Send + 'static,
    ) -> Option<T> {
        let store = self.store.clone()?;
        let called = tokio::task::spawn_blocking(move || job(&*store));
        match timeout(STORE_TIMEOUT, called).await {
            Ok(done) => done.ok(),
            Err(_) => {
                log::debug!("the store of hosts' health takes too long; going on without");
                None
            }
        }
    }
}
