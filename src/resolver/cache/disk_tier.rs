//! The cache tier that outlives the process. Reads have a time limit; writes happen in the background and
//! hold up nobody.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::cache::disk::{CacheWrite, CachedAnswer, Lookup, unix_seconds};
use crate::cache::{Disk, Lifetimes};
use crate::model::StorePath;
use crate::pool::HostId;

/// How long the disk may hold up an answer, or the end of a process.
const DISK_TIMEOUT: Duration = Duration::from_millis(300);

/// For how long a disk that held up an answer is not asked again.
const DISK_PAUSE: Duration = Duration::from_secs(10);

/// How many writes may be pending. Further ones are dropped.
const PENDING_WRITES_MAX: usize = 100_000;

/// The disk cache, and the keys of the hosts in it.
pub struct KeyedDisk {
    /// The disk cache.
    pub disk: Arc<Disk>,
    /// For each host, in order, a key that tells it from all others.
    pub hosts: Vec<Arc<str>>,
}

/// The disk tier, or none.
pub(super) struct DiskTier {
    tier: Option<Arc<KeyedDisk>>,
    pub(super) lifetimes: Lifetimes,
    waiting: Mutex<Vec<CacheWrite>>,
    rests_until: Mutex<Option<Instant>>,
    /// Whether the writer task runs.
    busy: watch::Sender<bool>,
}

impl DiskTier {
    pub(super) fn new(tier: Option<KeyedDisk>, lifetimes: Lifetimes) -> Self {
        Self {
            tier: tier.map(Arc::new),
            lifetimes,
            waiting: Mutex::default(),
            rests_until: Mutex::default(),
            busy: watch::Sender::new(false),
        }
    }

    /// Answers about `paths` and about their references that are not known yet, `most` paths at most: the index
    /// of the host, and its answer.
    pub(super) async fn look_up(
        &self,
        paths: &[StorePath],
        most: usize,
        is_known: impl Fn(&StorePath) -> bool + Send + 'static,
    ) -> Vec<(usize, CachedAnswer)> {
        let rests = *self.rests_until.lock();
        let Some(tier) = self.tier.clone() else {
            return Vec::new();
        };
        if rests.is_some_and(|until| Instant::now() < until) {
            return Vec::new();
        }
        let (paths, lifetimes) = (paths.to_vec(), self.lifetimes);
        let job = spawn_blocking(move || {
            let lookup = Lookup {
                hosts: &tier.hosts,
                paths: &paths,
                lifetimes,
                now: unix_seconds(),
                most,
            };
            tier.disk.path_infos(&lookup, is_known)
        });
        match timeout(DISK_TIMEOUT, job).await {
            Ok(found) => found.unwrap_or_default(),
            Err(_) => {
                log::debug!("the disk cache takes too long; going on without");
                *self.rests_until.lock() = Some(Instant::now() + DISK_PAUSE);
                Vec::new()
            }
        }
    }

    /// Queues a host's answers to be written.
    pub(super) fn write_answers(
        self: &Arc<Self>,
        host: HostId,
        all: impl IntoIterator<Item = CachedAnswer>,
    ) {
        let news = |key: &Arc<str>| {
            let answer = |answer| CacheWrite::Answer(key.clone(), answer);
            all.into_iter().map(answer).collect()
        };
        self.write(host, news);
    }

    /// Queues that a host still has these paths.
    pub(super) fn write_still_has(self: &Arc<Self>, host: HostId, paths: Vec<StorePath>, now: u64) {
        let has = |key: &Arc<str>| {
            let has = |path| CacheWrite::Confirmed(key.clone(), path, now);
            paths.into_iter().map(has).collect()
        };
        self.write(host, has);
    }

    /// Queues the removal of a host's answer about a path.
    pub(super) fn write_removed(self: &Arc<Self>, host: HostId, path: &StorePath) {
        self.write(host, |key| {
            vec![CacheWrite::Removed(key.clone(), path.clone())]
        });
    }

    fn write(self: &Arc<Self>, host: HostId, news: impl FnOnce(&Arc<str>) -> Vec<CacheWrite>) {
        let key = self
            .tier
            .as_ref()
            .and_then(|tier| tier.hosts.get(host.index()));
        let (Some(key), Ok(runtime)) = (key, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let news = news(key);
        let mut waiting = self.waiting.lock();
        if waiting.len() + news.len() > PENDING_WRITES_MAX {
            return;
        }
        waiting.extend(news);
        // Under the lock: a writer that is about to stop sees either the new writes or this flag.
        if !self.busy.send_replace(true) {
            let tier = self.clone();
            runtime.spawn(async move { tier.write_all().await });
        }
    }

    /// Writes in batches: what comes meanwhile goes into the next one.
    async fn write_all(self: Arc<Self>) {
        let Some(tier) = self.tier.clone() else {
            return;
        };
        loop {
            let news = {
                let mut waiting = self.waiting.lock();
                if waiting.is_empty() {
                    self.busy.send_replace(false);
                    return;
                }
                std::mem::take(&mut *waiting)
            };
            let (tier, lifetimes) = (tier.clone(), self.lifetimes);
            let job = spawn_blocking(move || {
                tier.disk.remember(&news, lifetimes, unix_seconds());
            });
            // The panic hook has reported a panic; its batch is lost.
            let _ = job.await;
        }
    }

    /// Waits until all is written, at most [`DISK_TIMEOUT`].
    pub(super) async fn flush(&self) {
        let mut busy = self.busy.subscribe();
        let written = busy.wait_for(|busy| !busy);
        if timeout(DISK_TIMEOUT, written).await.is_err() {
            log::debug!("the disk cache takes too long; some answers are not remembered");
        }
    }
}
