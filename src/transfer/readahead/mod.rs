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
//! | `budget` | how many bytes may be held, in memory and on disk |
//! | `room` | whether one more NAR may be held, and where |
//! | `spill` | NARs on disk, when the memory is used up |
//! | `workers` | how many workers there are, for which hosts |
//! | `worker` | one connection to one host |
//! | `compressed_worker` | one shell on one host, which compresses runs of small NARs |
//! | `chunk_worker` | NARs that come in chunks |
//! | `delta_worker` | NARs that come as differences |
//! | `rebuild_worker` | NARs that are made from what is here alone |

mod budget;
mod chunk_worker;
mod compressed_worker;
mod delta_worker;
mod in_flight;
mod queue;
mod rebuild_worker;
mod room;
mod spill;
mod task;
mod worker;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::chunks::ChunkedDownloads;
use super::delivered::Delivered;
use super::deltas::{DeltaState, Deltas};
use super::hosts::HostBookkeeping;
use super::partial::Partials;
use crate::model::PathInfo;
use crate::pool::HostId;
pub(super) use budget::ByteBudget;
use in_flight::InFlight;
use queue::ReadaheadQueue;
use room::CallerRoom;
use spill::Spill;
pub use spill::{SpillDisk, SpillFile};
pub(super) use task::{ReadEvent, SMALL_NAR, TaskReader};
use workers::Workers;

/// What the readahead of all callers shares, and each fetch uses.
pub(super) struct TransferContext {
    pub(super) bookkeeping: Arc<HostBookkeeping>,
    pub(super) chunks: Arc<ChunkedDownloads>,
    pub(super) deltas: Arc<Deltas>,
    pub(super) memory: Arc<ByteBudget>,
    spill: Option<Arc<Spill>>,
    in_flight: Arc<InFlight>,
    /// What interrupted commands have received.
    pub(super) partials: Option<Arc<Partials>>,
    /// Small NARs that were delivered of late.
    pub(super) delivered: Option<Arc<Delivered>>,
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
            memory: Arc::new(ByteBudget::new(memory)),
            spill: None,
            in_flight: Arc::default(),
            partials: None,
            delivered: None,
        }
    }

    /// From now on, at most `bytes` bytes more are read ahead on disk.
    pub(super) fn set_disk(&mut self, disk: Arc<dyn SpillDisk>, bytes: u64) {
        self.spill = (bytes > 0).then(|| Arc::new(Spill::new(disk, bytes)));
    }

    /// How many bytes are held on disk, and how many may be.
    pub(super) fn on_disk(&self) -> (u64, u64) {
        let budget = self.spill.as_ref().map(|spill| &spill.budget);
        budget.map_or((0, 0), |budget| (budget.used(), budget.total()))
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
    workers: Arc<Workers>,
    /// The caller has begun to fetch.
    has_fetched: AtomicBool,
    /// What is here is looked up.
    has_prepared: AtomicBool,
    partials: Option<Arc<Partials>>,
    delivered: Option<Arc<Delivered>>,
}

impl Readahead {
    pub(super) fn new(context: &TransferContext) -> Self {
        let queue = Arc::new(ReadaheadQueue::new(
            context.bookkeeping.clone(),
            context.chunks.clone(),
            context.deltas.clone(),
            context.in_flight.clone(),
            CallerRoom::new(context.memory.clone(), context.spill.clone()),
        ));
        Self {
            workers: Arc::new(Workers::new(queue.clone())),
            queue,
            has_fetched: AtomicBool::new(false),
            has_prepared: AtomicBool::new(false),
            partials: context.partials.clone(),
            delivered: context.delivered.clone(),
        }
    }

    /// The caller has asked what this path is.
    pub(super) fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        let (partials, delivered) = (self.partials.as_ref(), self.delivered.as_ref());
        if partials.is_some_and(|partials| partials.may_have(info))
            || delivered.is_some_and(|delivered| delivered.has(info))
        {
            return;
        }
        if !self.has_prepared.load(Ordering::Relaxed) && self.queue.deltas.prepare() {
            self.has_prepared.store(true, Ordering::Relaxed);
        }
        self.queue.expect(info, holders);
        if self.has_fetched.load(Ordering::Relaxed) {
            self.workers.spawn();
        }
    }

    /// The caller is about to fetch for the first time: these are not read ahead, since they do not come from their first
    /// byte on.
    pub(super) fn leave_out(&self, which: &dyn Fn(&PathInfo) -> bool) {
        if !self.has_fetched.load(Ordering::Relaxed) {
            self.queue.leave_out(which);
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
            // What can be made here is not requested.
            None => match self.queue.deltas.state(info, holders) {
                DeltaState::Rebuild(_) => None,
                _ => self
                    .queue
                    .request_now(info, holders)
                    .map(ReadaheadHit::Queued),
            },
        };
        if first {
            self.workers.begin();
        }
        self.workers.spawn();
        task
    }

    /// The caller gets this path, but not from here.
    pub(super) fn comes_otherwise(&self, info: &PathInfo) {
        let first = !self.has_fetched.swap(true, Ordering::Relaxed);
        drop(self.queue.fetch(info));
        if first {
            self.workers.begin();
        }
        self.workers.spawn();
    }

    /// Takes back a task that is [queued](ReadaheadHit::Queued). Whether no worker had requested it yet.
    pub(super) fn cancel(&self, reader: &TaskReader) -> bool {
        self.queue.cancel(reader)
    }
}
