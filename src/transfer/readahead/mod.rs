//! Readahead: the NARs that the caller is going to fetch are requested before it does.
//!
//! Nix asks what all paths of a closure are, and then fetches them one by one, each after the last. From its first fetch
//! on, the paths that it has asked about are brought into memory, references first, by workers that write requests ahead
//! of the replies. A caller that only asks questions causes no traffic. A failure here costs only time: the caller's own
//! fetch then begins at the first byte, or where the readahead broke off.
//!
//! | module | what it does |
//! | --- | --- |
//! | `queue` | what one caller and its workers share: which task is next |
//! | `queue::backlog` | what one caller is expected to fetch, and what is read ahead for it |
//! | `queue::fetch_order` | in which order it is expected to fetch; pure |
//! | `queue::demand_fetch` | what it waits for and no worker has requested |
//! | `task` | one NAR, between worker and callers |
//! | `in_flight` | the tasks of all callers |
//! | `memory_budget` | how much memory is held |
//! | `worker` | one connection to one host |
//! | `compressed_worker` | one shell on one host, which compresses runs of small NARs |
//! | `chunk_worker` | NARs that come in chunks |
//! | `delta_worker` | NARs that come as differences |

mod chunk_worker;
mod compressed_worker;
mod delta_worker;
mod in_flight;
mod memory_budget;
mod queue;
mod task;
mod worker;

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::chunks::{ChunkedDownloads, FAR};
use super::deltas::Deltas;
use super::hosts::HostBookkeeping;
use crate::model::PathInfo;
use crate::pool::HostId;
use in_flight::InFlight;
pub(super) use memory_budget::MemoryBudget;
use queue::ReadaheadQueue;
pub(super) use task::{ReadEvent, TaskReader};

/// How many waiting bytes justify one more worker.
const BYTES_PER_WORKER: u64 = 4 << 20;

/// How many large NARs are brought at the same time, so that one follows the other without a pause.
const CHUNK_WORKERS: usize = 4;

/// How many NARs are brought as differences at the same time: most of the time goes to the processors of both sides.
const DELTA_WORKERS: usize = 4;

/// What the readahead of all callers shares, and each fetch uses.
pub(super) struct TransferContext {
    pub(super) bookkeeping: Arc<HostBookkeeping>,
    pub(super) chunks: Arc<ChunkedDownloads>,
    pub(super) deltas: Arc<Deltas>,
    pub(super) memory: Arc<MemoryBudget>,
    in_flight: Arc<InFlight>,
}

impl TransferContext {
    /// At most `memory` bytes are read ahead.
    pub(super) fn new(
        bookkeeping: Arc<HostBookkeeping>,
        chunks: Arc<ChunkedDownloads>,
        deltas: Arc<Deltas>,
        memory: u64,
    ) -> Self {
        Self {
            bookkeeping,
            chunks,
            deltas,
            memory: Arc::new(MemoryBudget::new(memory)),
            in_flight: Arc::default(),
        }
    }
}

/// What the readahead has of a NAR.
pub(super) enum ReadaheadHit {
    /// A worker has requested it.
    Requested(TaskReader),
    /// It waits for a worker.
    Queued(TaskReader),
}

/// Reads ahead for one caller with tasks of its own, which end when this is dropped.
pub(super) struct Readahead {
    queue: Arc<ReadaheadQueue>,
    /// Locked to add one.
    workers: Mutex<JoinSet<()>>,
    /// The caller has has_fetched to fetch.
    has_fetched: AtomicBool,
}

impl Readahead {
    pub(super) fn new(context: &TransferContext) -> Self {
        let queue = ReadaheadQueue::new(
            context.bookkeeping.clone(),
            context.chunks.clone(),
            context.deltas.clone(),
            context.in_flight.clone(),
            context.memory.clone(),
        );
        Self {
            queue: Arc::new(queue),
            workers: Mutex::default(),
            has_fetched: AtomicBool::new(false),
        }
    }

    /// The caller has asked what this path is.
    pub(super) fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        self.queue.expect(info, holders);
        if self.has_fetched.load(Ordering::Relaxed) {
            self.spawn_workers();
        }
    }

    /// What the caller has fetched it may fetch again.
    pub(super) fn forget_fetched(&self) {
        self.queue.forget_fetched();
    }

    /// Drops what was read ahead for a caller that has not fetched anything for a minute.
    pub(super) fn pause_if_idle(&self) {
        self.queue.pause_if_idle();
    }

    /// The caller fetches this path: what has been read ahead of it, or will be soon.
    pub(super) fn fetch(&self, info: &PathInfo, holders: &[HostId]) -> Option<ReadaheadHit> {
        let first = !self.has_fetched.swap(true, Ordering::Relaxed);
        let task = match self.queue.fetch(info) {
            Some(reader) => Some(ReadaheadHit::Requested(reader)),
            None => self
                .queue
                .request_now(info, holders)
                .map(ReadaheadHit::Queued),
        };
        if first {
            let mut workers = self.workers.lock();
            for _ in 0..CHUNK_WORKERS {
                workers.spawn(chunk_worker::run(self.queue.clone()));
            }
            workers.spawn(delta_worker::decide(self.queue.clone()));
            for _ in 0..DELTA_WORKERS {
                workers.spawn(delta_worker::run(self.queue.clone()));
            }
        }
        self.spawn_workers();
        task
    }

    /// Takes back a task that is [queued](ReadaheadHit::Queued). Whether no worker had requested it yet.
    pub(super) fn cancel(&self, reader: &TaskReader) -> bool {
        self.queue.cancel(reader)
    }

    /// Starts as many workers as there is work for.
    fn spawn_workers(&self) {
        let pool = &self.queue.bookkeeping.pool;
        for host in pool.hosts() {
            let waiting = self.queue.bytes_waiting_for(host);
            if waiting == 0 || !pool.is_healthy(host) {
                continue;
            }
            let latency = pool.latency(host).unwrap_or_default();
            self.queue.bookkeeping.throughput.set_latency(host, latency);
            let is_measured = self.queue.bookkeeping.throughput.of(host).is_some();
            let places = if latency < FAR || !is_measured {
                // What is requested from a slow host before that shows comes as it is.
                1
            } else {
                // The others are for NARs in chunks.
                (pool.background_limit(host) / 3).max(1)
            };
            let wanted = usize::try_from(waiting / BYTES_PER_WORKER).unwrap_or(usize::MAX);
            let limit = wanted.saturating_add(1).min(places);
            while self.queue.register_worker(host, limit) {
                let mut workers = self.workers.lock();
                while workers.try_join_next().is_some() {}
                workers.spawn(worker::run(self.queue.clone(), host));
            }
        }
    }
}
