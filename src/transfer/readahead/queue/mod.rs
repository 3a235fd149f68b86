//! Which NAR is read ahead next, and by whom: everything that workers and the caller share.

mod backlog;
mod demand_fetch;
mod fetch_order;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::chunks::{ChunkedDownloads, LEAST};
use crate::transfer::hosts::HostBookkeeping;
use crate::transfer::hosts::OutstandingBytes;
use crate::transfer::readahead::in_flight::InFlight;
use crate::transfer::readahead::memory_budget::{CallerBudget, MemoryBudget, reservation_for};
use crate::transfer::readahead::task::{OwnerId, ReadaheadTask, TaskReader};
use crate::watch;
use backlog::{Backlog, LOOK, TrackedTask};

/// How many bytes one worker asks for ahead of what it receives, as long as there is more than one
/// NAR in it: twice what one channel of ssh moves in a round trip.
const PIPELINE: u64 = 4 << 20;

/// The same in NARs.
const PIPELINE_NARS: usize = 1000;

/// A caller that has fetched nothing for so long gets nothing more read ahead, until it fetches again.
const IDLE: Duration = Duration::from_secs(60);

/// Who asks about a path again so long after it was fetched is going to fetch it again. Sooner, it may
/// be another connection of the same caller that looks it up.
const ANEW: Duration = Duration::from_secs(30);

/// How many paths are expected at most, and how many fetched ones are remembered.
const EXPECTED: usize = 200_000;

pub(in crate::transfer::readahead) struct ReadaheadQueue {
    pub(in crate::transfer::readahead) book: Arc<HostBookkeeping>,
    pub(in crate::transfer::readahead) chunks: Arc<ChunkedDownloads>,
    pub(in crate::transfer::readahead) in_flight: Arc<InFlight>,
    pub(in crate::transfer::readahead) budget: Arc<CallerBudget>,
    pub(in crate::transfer::readahead) state: Mutex<Backlog>,
    /// Changes when there may be something to do for workers.
    version: watch::Sender<()>,
}

/// A task that a worker has assigned on. Dropping it unfinished gives it back.
pub(in crate::transfer::readahead) struct AssignedTask {
    pub(in crate::transfer::readahead) task: Arc<ReadaheadTask>,
    pub(in crate::transfer::readahead) owner: OwnerId,
    queue: Arc<ReadaheadQueue>,
    owed: Option<OutstandingBytes>,
    done: bool,
}

impl ReadaheadQueue {
    pub(in crate::transfer::readahead) fn new(
        book: Arc<HostBookkeeping>,
        chunks: Arc<ChunkedDownloads>,
        in_flight: Arc<InFlight>,
        memory: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            book,
            chunks,
            in_flight,
            budget: Arc::new(CallerBudget::new(memory)),
            state: Mutex::new(Backlog::new()),
            version: watch::Sender::new(()),
        }
    }

    /// Tells whether there may be more to do.
    pub(in crate::transfer::readahead) fn subscribe(&self) -> watch::Receiver<()> {
        self.version.subscribe()
    }

    pub(in crate::transfer::readahead) fn wake(&self) {
        self.version.send_modify(|()| {});
    }

    /// The caller has asked what this path is, so it will fetch it, unless it has already.
    pub(in crate::transfer::readahead) fn expect(
        &self,
        info: &Arc<PathInfo>,
        holders: &Arc<[HostId]>,
    ) {
        let mut state = self.state.lock();
        let path = &info.path;
        // Without size and hash it can be neither planned nor verified.
        let unsuitable = info.nar_size == 0
            || info.nar_hash.is_none()
            || reservation_for(info.nar_size) > self.budget.largest();
        let fetched = state.fetched.get(path);
        let known = state.tasks.contains_key(path) || fetched.is_some_and(|at| at.elapsed() < ANEW);
        if unsuitable || known || state.order.len() >= EXPECTED {
            return;
        }
        if state.expect(info, holders, false) {
            drop(state);
            self.wake();
        }
    }

    /// The caller begins anew: what it has fetched it may fetch again.
    pub(in crate::transfer::readahead) fn forget_fetched(&self) {
        self.state.lock().fetched.clear();
    }

    /// Drops what was read ahead for a caller that has not fetched anything for long. It is expected
    /// as before, and read ahead again once the caller goes on.
    pub(in crate::transfer::readahead) fn pause_if_idle(&self) {
        let mut state = self.state.lock();
        if state.latest.elapsed() < IDLE {
            return;
        }
        state.idle = true;
        let (complete, others) = std::mem::take(&mut state.tasks)
            .into_iter()
            .partition(|(_, entry)| entry.reader.task.is_complete());
        state.tasks = others;
        for TrackedTask { reader, .. } in BTreeMap::into_values(complete) {
            state.expect(&reader.task.info, &reader.task.holders, false);
        }
    }

    /// The caller fetches `path` now: what is being read ahead of it, if it is.
    pub(in crate::transfer::readahead) fn fetch(&self, info: &PathInfo) -> Option<TaskReader> {
        let path = &info.path;
        let mut state = self.state.lock();
        state.dumps += 1;
        state.latest = Instant::now();
        state.idle = false;
        if state.fetched.len() >= EXPECTED {
            state.fetched.clear();
        }
        state.fetched.insert(path.clone(), Instant::now());
        self.budget.caller_fetches(info.nar_size);
        state.order.remove(path);
        state.expected.remove(path);
        let reader = state.tasks.remove(path).map(|entry| entry.reader);
        if reader.as_ref().is_some_and(TaskReader::is_lost) {
            // The caller whose worker was to bring it is gone, with all that this one read along.
            state.expect_lost_again();
        }
        if reader.is_none() && self.budget.is_nearly_full() {
            state.drop_stale();
        }
        drop(state);
        self.wake();
        let same = |reader: &TaskReader| {
            let theirs = &reader.task.info;
            (theirs.nar_hash, theirs.nar_size) == (info.nar_hash, info.nar_size)
        };
        // What is read at once needs no room ahead, but is accounted for.
        let reserve = || Some(self.budget.reserve_anyway(reservation_for(info.nar_size)));
        let join = || self.in_flight.join(info, reserve);
        let reader = reader.filter(same).filter(TaskReader::want).or_else(join);
        reader.filter(TaskReader::want)
    }

    /// What another caller reads ahead, if it is the same and there is room for it here too.
    fn join(&self, info: &PathInfo) -> Option<TaskReader> {
        let room = reservation_for(info.nar_size);
        self.in_flight.join(info, || self.budget.reserve(room))
    }

    /// How many bytes could be read ahead from this host next, as far as one looks.
    pub(in crate::transfer::readahead) fn bytes_waiting_for(&self, host: HostId) -> u64 {
        let state = self.state.lock();
        let ready = state.order.ready().take(LOOK);
        let urgent = state.demanded_bytes(host);
        ready
            .filter_map(|path| state.expected.get(path))
            .filter(|expected| !expected.failed && expected.holders(&self.book).contains(&host))
            .map(|expected| expected.info.nar_size)
            .fold(urgent, u64::saturating_add)
    }

    /// A worker for `host` starts, unless there are `limit` of them.
    pub(in crate::transfer::readahead) fn register_worker(
        &self,
        host: HostId,
        limit: usize,
    ) -> bool {
        let mut state = self.state.lock();
        let count = state.workers.entry(host).or_default();
        let room = *count < limit;
        *count += usize::from(room);
        room
    }

    pub(in crate::transfer::readahead) fn unregister_worker(&self, host: HostId) {
        if let Some(count) = self.state.lock().workers.get_mut(&host) {
            *count -= 1;
        }
    }

    /// The next NAR for a worker of `host` that has asked for `nars` NARs of `bytes` bytes which
    /// have not come yet.
    pub(in crate::transfer::readahead) fn next_task(
        self: &Arc<Self>,
        host: HostId,
        nars: usize,
        bytes: u64,
    ) -> Option<AssignedTask> {
        let mut state = self.state.lock();
        let fits = |size: u64| nars == 0 || (nars < PIPELINE_NARS && bytes + size <= PIPELINE);
        while let Some(urgent) = state.next_demand_fetch(host, fits) {
            drop(state);
            let assigned = self.assigned(host, urgent);
            if !self.book.sent_wrong_content(host, &assigned.task.info.path) {
                return Some(assigned);
            }
            // Found out since it was decided: who waits for it has to ask others.
            assigned.fail(false);
            state = self.state.lock();
        }
        if state.idle {
            return None;
        }
        let owner = self.in_flight.new_owner();
        let task = loop {
            let next = state.next_for(host, &self.book, &self.chunks).cloned();
            match next {
                Some(path) => {
                    let info = &state.expected.get(&path)?.info;
                    if let Some(reader) = self.join(info) {
                        state.track(&path, reader);
                        continue;
                    }
                    if !fits(info.nar_size) {
                        return None;
                    }
                    break state.start_task(&path, (owner, host), self)?;
                }
                // Nothing is left to ask for: what others are slow to bring.
                None if nars == 0 => break state.steal(host, owner, &self.book)?,
                None => return None,
            }
        };
        drop(state);
        Some(self.assigned(host, (owner, task)))
    }

    fn assigned(
        self: &Arc<Self>,
        host: HostId,
        (owner, task): (OwnerId, Arc<ReadaheadTask>),
    ) -> AssignedTask {
        AssignedTask {
            owed: Some(self.book.rates.ask(host, task.info.nar_size)),
            task,
            owner,
            queue: self.clone(),
            done: false,
        }
    }

    /// The next NAR that should come in parts.
    pub(in crate::transfer::readahead) fn next_chunked_task(
        self: &Arc<Self>,
    ) -> Option<AssignedTask> {
        let mut state = self.state.lock();
        if state.idle {
            return None;
        }
        let owner = self.in_flight.new_owner();
        let (path, host) = state.order.ready().take(LOOK).find_map(|path| {
            let expected = state.expected.get(path)?;
            // Before anybody is looked up: mostly all of them are small.
            if expected.failed || expected.info.nar_size < LEAST {
                return None;
            }
            let holders = expected.holders(&self.book);
            let suits = self.chunks.suits(&expected.info, &holders);
            suits.then(|| (path.clone(), expected.holders[0]))
        })?;
        if let Some(reader) = self.join(&state.expected.get(&path)?.info) {
            state.track(&path, reader);
            drop(state);
            // There may be another one.
            self.wake();
            return None;
        }
        let task = state.start_task(&path, (owner, host), self)?;
        drop(state);
        task.begin(owner);
        Some(AssignedTask {
            task,
            owner,
            queue: self.clone(),
            owed: None,
            done: false,
        })
    }
}

impl AssignedTask {
    /// So many bytes of it have come.
    pub(in crate::transfer::readahead) fn received(&mut self, bytes: u64) {
        if let Some(owed) = &mut self.owed {
            owed.received(bytes);
        }
    }

    /// It is whole, or somebody else's.
    pub(in crate::transfer::readahead) fn finish(mut self) {
        self.done = true;
    }

    /// The worker cannot bring it; it counts against it when `blamed`.
    pub(in crate::transfer::readahead) fn fail(mut self, blamed: bool) {
        self.requeue(blamed);
    }

    fn requeue(&mut self, blamed: bool) {
        self.done = true;
        let task = &self.task;
        if !task.give_up(self.owner) {
            return;
        }
        let mut state = self.queue.state.lock();
        // The caller may have assigned it away meanwhile.
        if state.tasks.remove(&task.info.path).is_some() {
            state.expect(&task.info, &task.holders, blamed);
        }
    }
}

impl Drop for AssignedTask {
    fn drop(&mut self) {
        if !self.done {
            self.requeue(false);
        }
        self.queue.wake();
    }
}
