//! How many workers there are for one caller, and for which hosts.

use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::queue::ReadaheadQueue;
use super::{chunk_worker, delta_worker, rebuild_worker, worker};
use crate::pool::HostId;
use crate::transfer::chunks::FAR;

/// How many waiting bytes justify one more worker.
const BYTES_PER_WORKER: u64 = 4 << 20;

/// How many large NARs are brought in chunks at the same time, so that one follows the other without a pause.
const CHUNK_WORKERS: usize = 4;

/// How many NARs are brought as differences at the same time: most of the time goes to the processors of both sides.
const DELTA_WORKERS: usize = 4;

/// How many NARs are made from what is here at the same time.
const REBUILD_WORKERS: usize = 2;

/// How often it is looked for more hosts, and for more to do for workers, while a caller takes a NAR.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The workers of one caller, which end when this is dropped.
pub(super) struct Workers {
    queue: Arc<ReadaheadQueue>,
    /// Locked to add one.
    tasks: Mutex<JoinSet<()>>,
}

impl Workers {
    pub(super) fn new(queue: Arc<ReadaheadQueue>) -> Self {
        Self {
            queue,
            tasks: Mutex::default(),
        }
    }

    /// The caller begins to fetch.
    pub(super) fn begin(self: &Arc<Self>) {
        let mut tasks = self.tasks.lock();
        for _ in 0..CHUNK_WORKERS {
            tasks.spawn(chunk_worker::run(self.queue.clone()));
        }
        tasks.spawn(delta_worker::decide(self.queue.clone()));
        for _ in 0..DELTA_WORKERS {
            tasks.spawn(delta_worker::run(self.queue.clone()));
        }
        for _ in 0..REBUILD_WORKERS {
            tasks.spawn(rebuild_worker::run(self.queue.clone()));
        }
        tasks.spawn(check(self.queue.clone(), Arc::downgrade(self)));
    }

    /// Starts as many workers as there is work for.
    pub(super) fn spawn(&self) {
        let pool = &self.queue.bookkeeping.pool;
        for host in pool.hosts() {
            let waiting = self.queue.bytes_waiting_for(host);
            if waiting == 0 || !pool.is_healthy(host) {
                continue;
            }
            let latency = pool.latency(host).unwrap_or_default();
            self.queue.bookkeeping.throughput.set_latency(host, latency);
            let wanted = usize::try_from(waiting / BYTES_PER_WORKER).unwrap_or(usize::MAX);
            let limit = wanted.saturating_add(1).min(self.limit(host, latency));
            while self.queue.register_worker(host, limit) {
                let mut tasks = self.tasks.lock();
                while tasks.try_join_next().is_some() {}
                tasks.spawn(worker::run(self.queue.clone(), host));
            }
        }
    }

    fn is_measured(&self, host: HostId) -> bool {
        self.queue.bookkeeping.throughput.of(host).is_some()
    }

    /// How many workers a host may have. On how many channels it sends large NARs is decided by what they bring.
    fn limit(&self, host: HostId, latency: Duration) -> usize {
        let pool = &self.queue.bookkeeping.pool;
        let channels = pool.background_limit(host);
        match () {
            () if latency < FAR => 1,
            // What is requested from a slow host before that shows comes as it is.
            () if pool.may_have_shell(host) && !self.is_measured(host) => 1,
            // The others are for NARs in chunks.
            () if pool.may_have_shell(host) => (channels / 3).max(1),
            () => channels.max(1),
        }
    }
}

/// Starts workers while the caller takes a NAR, when more hosts are found to have what it wants or a host turns out to have
/// no shell.
async fn check(queue: Arc<ReadaheadQueue>, workers: Weak<Workers>) {
    let mut changes = queue.subscribe();
    loop {
        changes.mark_seen();
        if !queue.expects_more() {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        queue.look_for_holders();
        sleep(CHECK_INTERVAL).await;
        match workers.upgrade() {
            Some(workers) => workers.spawn(),
            None => return,
        }
        // With more hosts, what would have come whole may come in chunks.
        queue.wake();
    }
}
