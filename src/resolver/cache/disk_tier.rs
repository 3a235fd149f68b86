//! The tier that outlives the process, as the rest of the room sees it: reading has a time limit,
//! writing goes on in the background and holds up nobody.

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

/// Answers that wait to be written, at most; what is more is not remembered.
const PENDING_WRITES_MAX: usize = 100_000;

/// Where answers outlive the process.
pub struct KeyedDisk {
    /// The disk cache.
    pub disk: Arc<Disk>,
    /// For each host, in order, what tells it from all others.
    pub hosts: Vec<Arc<str>>,
}

/// The disk tier, or none.
pub(super) struct DiskTier {
    tier: Option<Arc<KeyedDisk>>,
    pub(super) lifetimes: Lifetimes,
    waiting: Mutex<Vec<CacheWrite>>,
    rests_until: Mutex<Option<Instant>>,
    /// Whether somebody writes.
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

    /// What hosts said of `paths`, and of what those refer to that is not known yet, up to `most`
    /// paths: the place of the host in the order, and its answer.
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

    /// Writes that a host said this, soon.
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

    /// Writes that a host still has these paths, soon.
    pub(super) fn write_still_has(self: &Arc<Self>, host: HostId, paths: Vec<StorePath>, now: u64) {
        let has = |key: &Arc<str>| {
            let has = |path| CacheWrite::Confirmed(key.clone(), path, now);
            paths.into_iter().map(has).collect()
        };
        self.write(host, has);
    }

    /// Writes that what a host said of a path is no longer true, soon.
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
        // Under the lock, so that a writer that is about to stop sees either.
        if !self.busy.send_replace(true) {
            let tier = self.clone();
            runtime.spawn(async move { tier.write_all().await });
        }
    }

    /// Whatever comes while one batch is being written goes into the next.
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
            // A panic in there has been reported; what it was about is lost.
            let _ = job.await;
        }
    }

    /// Waits until all is written, but not for long.
    pub(super) async fn flush(&self) {
        let mut busy = self.busy.subscribe();
        let written = busy.wait_for(|busy| !busy);
        if timeout(DISK_TIMEOUT, written).await.is_err() {
            log::debug!("the disk cache takes too long; some answers are not remembered");
        }
    }
}
