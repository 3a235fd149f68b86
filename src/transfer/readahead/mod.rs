//! Readahead: the NARs that the caller is going to fetch are requested before it does.
//!
//! Nix asks what all paths of a closure are, and then fetches them one by one, each after the last.
//! From its first dump on, the paths that it has asked about are brought into memory, references
//! first, by workers that write requests ahead of the replies. A caller that only asks questions
//! causes no traffic. Whatever goes wrong here costs nothing but time: the caller's own fetch then
//! does it from the beginning, or from where the readahead broke off.
//!
//! | module | what it does |
//! | --- | --- |
//! | `order` | which path is fetched next; pure |
//! | `budget` | how much memory is held |
//! | `task` | one NAR, between worker and callers |
//! | `in_flight` | what callers share |
//! | `state` | what is known of one caller |
//! | `queue` | what workers and their caller share |
//! | `urgent` | what the caller waits for and nobody has asked for |
//! | `worker` | one connection to one host |
//! | `large` | NARs that come in parts |

mod chunk_worker;
mod in_flight;
mod memory_budget;
mod queue;
mod task;
mod worker;

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::chunks::{ChunkedDownloads, FAR};
use super::hosts::HostBookkeeping;
use crate::model::PathInfo;
use crate::pool::HostId;
use in_flight::InFlight;
pub(super) use memory_budget::MemoryBudget;
use queue::ReadaheadQueue;
pub(super) use task::{ReadEvent, TaskReader};

/// How many bytes are worth one more channel.
const SHARE: u64 = 4 << 20;

/// NARs up to this size, in bytes, go through a worker even if somebody waits for them already, and come
/// to their end even if nobody does any more.
const SMALL_NAR: u64 = 4 << 20;

/// Large NARs that are brought at the same time, so that one follows the other without a pause.
const LARGE: usize = 4;

/// What all callers share.
pub(super) struct TransferContext {
    pub(super) book: Arc<HostBookkeeping>,
    pub(super) chunks: Arc<ChunkedDownloads>,
    pub(super) memory: Arc<MemoryBudget>,
    in_flight: Arc<InFlight>,
}

impl TransferContext {
    /// Holds at most `memory` bytes.
    pub(super) fn new(
        book: Arc<HostBookkeeping>,
        chunks: Arc<ChunkedDownloads>,
        memory: u64,
    ) -> Self {
        Self {
            book,
            chunks,
            memory: Arc::new(MemoryBudget::new(memory)),
            in_flight: Arc::default(),
        }
    }
}

/// A NAR that comes by itself.
pub(super) enum ReadaheadHit {
    /// It has been asked for.
    Asked(TaskReader),
    /// It waits for a worker.
    Waiting(TaskReader),
}

/// Reads ahead for one caller with tasks of its own, which end when this is dropped.
pub(super) struct Readahead {
    queue: Arc<ReadaheadQueue>,
    /// Locked to add one.
    workers: Mutex<JoinSet<()>>,
    /// The caller has begun to fetch.
    begun: AtomicBool,
}

impl Readahead {
    pub(super) fn new(common: &TransferContext) -> Self {
        let queue = ReadaheadQueue::new(
            common.book.clone(),
            common.chunks.clone(),
            common.in_flight.clone(),
            common.memory.clone(),
        );
        Self {
            queue: Arc::new(queue),
            workers: Mutex::default(),
            begun: AtomicBool::new(false),
        }
    }

    /// The caller has asked what this path is.
    pub(super) fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        self.queue.expect(info, holders);
        if self.begun.load(Ordering::Relaxed) {
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
        let first = !self.begun.swap(true, Ordering::Relaxed);
        let task = match self.queue.fetch(info) {
            Some(reader) => Some(ReadaheadHit::Asked(reader)),
            None => self
                .queue
                .request_now(info, holders)
                .map(ReadaheadHit::Waiting),
        };
        if first {
            let mut workers = self.workers();
            for _ in 0..LARGE {
                workers.spawn(chunk_worker::run(self.queue.clone()));
            }
        }
        self.spawn_workers();
        task
    }

    /// Takes back what is [waiting](ReadaheadHit::Waiting). Whether nobody has asked for it yet.
    pub(super) fn cancel(&self, reader: &TaskReader) -> bool {
        self.queue.cancel(reader)
    }

    fn workers(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.workers.lock()
    }

    /// Sets as many workers to work as there is work for.
    fn spawn_workers(&self) {
        let pool = &self.queue.book.pool;
        for host in pool.hosts() {
            let waiting = self.queue.bytes_waiting_for(host);
            if waiting == 0 || !pool.is_well(host) {
                continue;
            }
            let latency = pool.latency(host).unwrap_or_default();
            self.queue.book.rates.set_latency(host, latency);
            let places = if latency < FAR {
                1
            } else {
                // The others are for large NARs.
                (pool.background_limit(host) / 3).max(1)
            };
            let wanted = usize::try_from(waiting / SHARE).unwrap_or(usize::MAX);
            let limit = wanted.saturating_add(1).min(places);
            while self.queue.register_worker(host, limit) {
                let mut workers = self.workers();
                while workers.try_join_next().is_some() {}
                workers.spawn(worker::run(self.queue.clone(), host));
            }
        }
    }
}
