//! Which NAR is read ahead next, and by which worker: what one caller and its workers share.

mod backlog;
mod delta_tasks;
mod demand_fetch;
mod fetch_order;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::chunks::{ChunkedDownloads, MIN_NAR_SIZE};
use crate::transfer::deltas::{DeltaState, Deltas};
use crate::transfer::hosts::{HostBookkeeping, OutstandingBytes};
use crate::transfer::readahead::in_flight::InFlight;
use crate::transfer::readahead::memory_budget::{CallerBudget, MemoryBudget, reservation_for};
use crate::transfer::readahead::task::{OwnerId, ReadaheadTask, SMALL_NAR, TaskReader};
use crate::watch;
use backlog::{Backlog, LOOKAHEAD_PATHS, TrackedTask};
use demand_fetch::DemandFetch;

/// How many bytes a worker may have outstanding in more than one NAR: twice what one ssh channel moves in a round trip.
const MAX_OUTSTANDING_BYTES: u64 = 4 << 20;

/// How many NARs a worker may have outstanding.
const MAX_OUTSTANDING_NARS: usize = 1000;

/// Readahead pauses for a caller that has fetched nothing for so long, until it fetches again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A path that is asked about again so long after it was fetched is going to be fetched again. Sooner, it may be another
/// connection of the same caller that looks it up.
const REFETCH_AFTER: Duration = Duration::from_secs(30);

/// How many paths are expected at most, and how many fetched ones are remembered.
const MAX_EXPECTED: usize = 200_000;

pub(in crate::transfer::readahead) struct ReadaheadQueue {
    pub(in crate::transfer::readahead) bookkeeping: Arc<HostBookkeeping>,
    pub(in crate::transfer::readahead) chunks: Arc<ChunkedDownloads>,
    pub(in crate::transfer::readahead) deltas: Arc<Deltas>,
    pub(in crate::transfer::readahead) in_flight: Arc<InFlight>,
    pub(in crate::transfer::readahead) budget: Arc<CallerBudget>,
    backlog: Mutex<Backlog>,
    /// Changes when there may be work for workers.
    work_version: watch::Sender<()>,
}

/// A task of a worker. Dropping it unfinished requeues it.
pub(in crate::transfer::readahead) struct AssignedTask {
    pub(in crate::transfer::readahead) task: Arc<ReadaheadTask>,
    pub(in crate::transfer::readahead) owner: OwnerId,
    queue: Arc<ReadaheadQueue>,
    outstanding: Option<OutstandingBytes>,
    done: bool,
}

impl ReadaheadQueue {
    pub(in crate::transfer::readahead) fn new(
        bookkeeping: Arc<HostBookkeeping>,
        chunks: Arc<ChunkedDownloads>,
        deltas: Arc<Deltas>,
        in_flight: Arc<InFlight>,
        memory: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            bookkeeping,
            chunks,
            deltas,
            in_flight,
            budget: Arc::new(CallerBudget::new(memory)),
            backlog: Mutex::new(Backlog::new()),
            work_version: watch::Sender::new(()),
        }
    }

    /// A receiver of changes: there may be work.
    pub(in crate::transfer::readahead) fn subscribe(&self) -> watch::Receiver<()> {
        self.work_version.subscribe()
    }

    pub(in crate::transfer::readahead) fn wake(&self) {
        self.work_version.send_modify(|()| {});
    }

    /// The caller has asked what this path is, so it will fetch it, unless it has already.
    pub(in crate::transfer::readahead) fn expect(
        &self,
        info: &Arc<PathInfo>,
        holders: &Arc<[HostId]>,
    ) {
        let mut backlog = self.backlog.lock();
        let path = &info.path;
        // Without size and hash it can be neither planned nor verified.
        let unsuitable = info.nar_size == 0
            || info.nar_hash.is_none()
            || reservation_for(info.nar_size) > self.budget.largest();
        let fetched = backlog.fetched.get(path);
        let known = backlog.tasks.contains_key(path)
            || fetched.is_some_and(|at| at.elapsed() < REFETCH_AFTER);
        if unsuitable || known || backlog.order.len() >= MAX_EXPECTED {
            return;
        }
        if backlog.expect(info, holders, false) {
            drop(backlog);
            self.wake();
        }
    }

    /// The caller may fetch again what it has fetched.
    pub(in crate::transfer::readahead) fn forget_fetched(&self) {
        self.backlog.lock().fetched.clear();
    }

    /// Drops what was read ahead for a caller that has not fetched anything for long. It is expected
    /// as before, and read ahead again once the caller goes on.
    pub(in crate::transfer::readahead) fn pause_if_idle(&self) {
        let mut backlog = self.backlog.lock();
        if backlog.last_fetch.elapsed() < IDLE_TIMEOUT {
            return;
        }
        backlog.idle = true;
        let (complete, others) = std::mem::take(&mut backlog.tasks)
            .into_iter()
            .partition(|(_, entry)| entry.reader.task.is_complete());
        backlog.tasks = others;
        for TrackedTask { reader, .. } in BTreeMap::into_values(complete) {
            backlog.expect(&reader.task.info, &reader.task.holders, false);
        }
    }

    /// The caller fetches `path` now. Gives what is read ahead of it, if it is.
    pub(in crate::transfer::readahead) fn fetch(&self, info: &PathInfo) -> Option<TaskReader> {
        let path = &info.path;
        let mut backlog = self.backlog.lock();
        backlog.fetches += 1;
        backlog.last_fetch = Instant::now();
        backlog.idle = false;
        if backlog.fetched.len() >= MAX_EXPECTED {
            backlog.fetched.clear();
        }
        backlog.fetched.insert(path.clone(), Instant::now());
        self.budget.caller_fetches(info.nar_size);
        backlog.order.remove(path);
        backlog.expected.remove(path);
        let reader = backlog.tasks.remove(path).map(|entry| entry.reader);
        if reader.as_ref().is_some_and(TaskReader::is_lost) {
            // The caller whose worker was to bring it is gone, with everything else that its workers had in flight for
            // this one.
            backlog.expect_lost_again();
        }
        if reader.is_none() && self.budget.is_nearly_full() {
            backlog.drop_stale();
        }
        drop(backlog);
        self.wake();
        let is_same = |reader: &TaskReader| {
            let theirs = &reader.task.info;
            (theirs.nar_hash, theirs.nar_size) == (info.nar_hash, info.nar_size)
        };
        // What is read at once needs no room ahead, but is accounted for.
        let reserve = || Some(self.budget.reserve_anyway(reservation_for(info.nar_size)));
        let join = || self.in_flight.join(info, reserve);
        let reader = reader
            .filter(is_same)
            .filter(TaskReader::want)
            .or_else(join);
        reader.filter(TaskReader::want)
    }

    /// Joins what another caller reads ahead, if it is the same NAR and this caller's budget has room for it.
    fn join(&self, info: &PathInfo) -> Option<TaskReader> {
        let bytes = reservation_for(info.nar_size);
        self.in_flight.join(info, || self.budget.reserve(bytes))
    }

    /// Has a worker bring a NAR now that nobody has requested, if it is a small one: it has a connection, where a new
    /// channel would cost three round trips, and what comes next is requested right behind.
    pub(in crate::transfer::readahead) fn request_now(
        &self,
        info: &PathInfo,
        holders: &[HostId],
    ) -> Option<TaskReader> {
        let suits = (1..=SMALL_NAR).contains(&info.nar_size) && info.nar_hash.is_some();
        if !suits || self.budget.largest() == 0 {
            return None;
        }
        let (pool, throughput) = (&self.bookkeeping.pool, &self.bookkeeping.throughput);
        let mut hosts = self.bookkeeping.holders(&info.path, holders);
        hosts.retain(|host| !self.bookkeeping.sent_wrong_content(*host, &info.path));
        throughput.put_late_ones_last(&mut hosts, info.nar_size);
        let host = *pool.in_order_of_health(&hosts).first()?;
        if !pool.is_healthy(host) {
            return None;
        }
        let reservation = self.budget.reserve(reservation_for(info.nar_size))?;
        let owner = self.in_flight.new_owner_id();
        let (info, holders) = (Arc::new(info.clone()), Arc::from(holders));
        let reader = ReadaheadTask::start(info, holders, (owner, host), reservation);
        reader.want();
        let task = reader.task.clone();
        let fetch = DemandFetch { host, owner, task };
        self.backlog.lock().demanded.push(fetch);
        self.wake();
        Some(reader)
    }

    /// Takes back what no worker has requested yet. Whether it is.
    pub(in crate::transfer::readahead) fn cancel(&self, reader: &TaskReader) -> bool {
        self.backlog.lock().demanded.cancel(&reader.task)
    }

    /// How many bytes could be read ahead from this host next, among the first paths.
    pub(in crate::transfer::readahead) fn bytes_waiting_for(&self, host: HostId) -> u64 {
        let backlog = self.backlog.lock();
        let ready = backlog.order.ready().take(LOOKAHEAD_PATHS);
        let demanded = backlog.demanded.bytes_for(host);
        ready
            .filter_map(|path| backlog.expected.get(path))
            .filter(|expected| {
                !expected.failed && expected.holders(&self.bookkeeping).contains(&host)
            })
            .map(|expected| expected.info.nar_size)
            .fold(demanded, u64::saturating_add)
    }

    /// Registers a worker for `host`, unless there are `limit` of them.
    pub(in crate::transfer::readahead) fn register_worker(
        &self,
        host: HostId,
        limit: usize,
    ) -> bool {
        let mut backlog = self.backlog.lock();
        let count = backlog.workers.entry(host).or_default();
        let has_room = *count < limit;
        *count += usize::from(has_room);
        has_room
    }

    pub(in crate::transfer::readahead) fn unregister_worker(&self, host: HostId) {
        if let Some(count) = self.backlog.lock().workers.get_mut(&host) {
            *count -= 1;
        }
    }

    /// The next task for a worker of `host` that has `nars` NARs of `bytes` bytes outstanding.
    pub(in crate::transfer::readahead) fn next_task(
        self: &Arc<Self>,
        host: HostId,
        nars: usize,
        bytes: u64,
    ) -> Option<AssignedTask> {
        let mut backlog = self.backlog.lock();
        let fits = |size: u64| {
            nars == 0 || (nars < MAX_OUTSTANDING_NARS && bytes + size <= MAX_OUTSTANDING_BYTES)
        };
        while let Some(demanded) = backlog.demanded.next_for(host, fits) {
            drop(backlog);
            let assigned = self.assign(host, demanded.owner, demanded.task);
            if !self
                .bookkeeping
                .sent_wrong_content(host, &assigned.task.info.path)
            {
                return Some(assigned);
            }
            // This was found out after the host was chosen. The caller has to ask others.
            assigned.fail(false);
            backlog = self.backlog.lock();
        }
        if backlog.idle {
            return None;
        }
        let owner = self.in_flight.new_owner_id();
        let task = loop {
            let next = backlog
                .next_for(host, &self.bookkeeping, (&self.chunks, &self.deltas))
                .cloned();
            match next {
                Some(path) => {
                    let info = &backlog.expected.get(&path)?.info;
                    if let Some(reader) = self.join(info) {
                        backlog.track(&path, reader);
                        continue;
                    }
                    if !fits(info.nar_size) {
                        return None;
                    }
                    break backlog.start_task(
                        &path,
                        (owner, host),
                        &self.budget,
                        &self.in_flight,
                    )?;
                }
                // Nothing is left to request: take over what another host is slow to bring.
                None if nars == 0 => break backlog.steal(host, owner, &self.bookkeeping)?,
                None => return None,
            }
        };
        drop(backlog);
        Some(self.assign(host, owner, task))
    }

    fn assign(
        self: &Arc<Self>,
        host: HostId,
        owner: OwnerId,
        task: Arc<ReadaheadTask>,
    ) -> AssignedTask {
        AssignedTask {
            outstanding: Some(
                self.bookkeeping
                    .throughput
                    .request(host, task.info.nar_size),
            ),
            task,
            owner,
            queue: self.clone(),
            done: false,
        }
    }

    /// The next task that should come in chunks.
    pub(in crate::transfer::readahead) fn next_chunked_task(
        self: &Arc<Self>,
    ) -> Option<AssignedTask> {
        let mut backlog = self.backlog.lock();
        if backlog.idle {
            return None;
        }
        let owner = self.in_flight.new_owner_id();
        let (path, host) = backlog
            .order
            .ready()
            .take(LOOKAHEAD_PATHS)
            .find_map(|path| {
                let expected = backlog.expected.get(path)?;
                // Cheaper than looking holders up, and most paths are small.
                if expected.failed || expected.info.nar_size < MIN_NAR_SIZE {
                    return None;
                }
                let holders = expected.holders(&self.bookkeeping);
                let suits = self.chunks.suits(&expected.info, &holders)
                    && matches!(self.deltas.state(&expected.info, &holders), DeltaState::No);
                suits.then(|| (path.clone(), expected.holders[0]))
            })?;
        if let Some(reader) = self.join(&backlog.expected.get(&path)?.info) {
            backlog.track(&path, reader);
            drop(backlog);
            // There may be another one.
            self.wake();
            return None;
        }
        let task = backlog.start_task(&path, (owner, host), &self.budget, &self.in_flight)?;
        drop(backlog);
        Some(self.assign_begun(owner, task))
    }

    /// A task that comes over channels which other NARs share: they know how many bytes are outstanding.
    fn assign_begun(self: &Arc<Self>, owner: OwnerId, task: Arc<ReadaheadTask>) -> AssignedTask {
        task.begin(owner);
        AssignedTask {
            task,
            owner,
            queue: self.clone(),
            outstanding: None,
            done: false,
        }
    }
}

impl AssignedTask {
    /// So many bytes of it have come.
    pub(in crate::transfer::readahead) fn received(&mut self, bytes: u64) {
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.on_received(bytes);
        }
    }

    /// It is complete, or belongs to another worker.
    pub(in crate::transfer::readahead) fn finish(mut self) {
        self.done = true;
    }

    /// The worker cannot bring it. With `blamed`, no worker tries it again.
    pub(in crate::transfer::readahead) fn fail(mut self, blamed: bool) {
        self.requeue(blamed);
    }

    fn requeue(&mut self, blamed: bool) {
        self.done = true;
        let task = &self.task;
        if !task.give_up(self.owner) {
            return;
        }
        let mut backlog = self.queue.backlog.lock();
        // The caller may have taken it meanwhile.
        if backlog.tasks.remove(&task.info.path).is_some() {
            backlog.expect(&task.info, &task.holders, blamed);
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
