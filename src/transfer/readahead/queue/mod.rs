//! Which NAR is read ahead next, and by which worker: what one caller and its workers share.

mod assigned;
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
use crate::transfer::hosts::HostBookkeeping;
use crate::transfer::readahead::in_flight::InFlight;
use crate::transfer::readahead::room::CallerRoom;
use crate::transfer::readahead::task::{Failures, OwnerId, ReadaheadTask, SMALL_NAR, TaskReader};
use crate::watch;
pub(in crate::transfer::readahead) use assigned::AssignedTask;
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
    pub(in crate::transfer::readahead) room: CallerRoom,
    backlog: Mutex<Backlog>,
    /// Changes when there may be work for workers.
    work_version: watch::Sender<()>,
}

impl ReadaheadQueue {
    pub(in crate::transfer::readahead) fn new(
        bookkeeping: Arc<HostBookkeeping>,
        chunks: Arc<ChunkedDownloads>,
        deltas: Arc<Deltas>,
        in_flight: Arc<InFlight>,
        room: CallerRoom,
    ) -> Self {
        Self {
            bookkeeping,
            chunks,
            deltas,
            in_flight,
            room,
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
        let unsuitable =
            info.nar_size == 0 || info.nar_hash.is_none() || !self.room.may_suit(info.nar_size);
        let fetched = backlog.fetched.get(path);
        let known = backlog.tasks.contains_key(path)
            || fetched.is_some_and(|at| at.elapsed() < REFETCH_AFTER);
        if unsuitable || known || backlog.order.len() >= MAX_EXPECTED {
            return;
        }
        if backlog.expect(info, holders, Failures::default()) {
            drop(backlog);
            self.wake();
        }
    }

    /// The caller will fetch these otherwise.
    pub(in crate::transfer::readahead) fn leave_out(&self, which: &dyn Fn(&PathInfo) -> bool) {
        self.backlog.lock().leave_out(which);
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
            backlog.expect_again(&reader.task);
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
        self.room.caller_fetches(info.nar_size);
        backlog.order.remove(path);
        backlog.expected.remove(path);
        let reader = backlog.tasks.remove(path).map(|entry| entry.reader);
        if reader.as_ref().is_some_and(TaskReader::is_lost) {
            // The caller whose worker was to bring it is gone, with everything else that its workers had in flight for
            // this one.
            backlog.expect_lost_again();
        }
        if reader.is_none() && self.room.is_nearly_full() {
            backlog.drop_stale();
        }
        drop(backlog);
        self.wake();
        let is_same = |reader: &TaskReader| {
            let theirs = &reader.task.info;
            (theirs.nar_hash, theirs.nar_size) == (info.nar_hash, info.nar_size)
        };
        // What is read at once needs no room ahead, but is accounted for.
        let reserve = |is_on_disk| Some(self.room.for_reader_anyway(info.nar_size, is_on_disk));
        let join = || self.in_flight.join(info, reserve);
        let reader = reader
            .filter(is_same)
            .filter(TaskReader::want)
            .or_else(join);
        reader.filter(TaskReader::want)
    }

    /// Joins what another caller reads ahead, if it is the same NAR and this caller's budget has room for it.
    fn join(&self, info: &PathInfo) -> Option<TaskReader> {
        let reserve = |is_on_disk| self.room.for_reader(info.nar_size, is_on_disk);
        self.in_flight.join(info, reserve)
    }

    /// Has a worker bring a NAR now that nobody has requested, if it is a small one: it has a connection, where a new
    /// channel would cost three round trips, and what comes next is requested right behind.
    pub(in crate::transfer::readahead) fn request_now(
        &self,
        info: &PathInfo,
        holders: &[HostId],
    ) -> Option<TaskReader> {
        let suits = (1..=SMALL_NAR).contains(&info.nar_size) && info.nar_hash.is_some();
        if !suits || self.room.is_none() {
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
        let room = self.room.in_memory(info.nar_size)?;
        let owner = self.in_flight.new_owner_id();
        let (info, holders) = (Arc::new(info.clone()), Arc::from(holders));
        let reader =
            ReadaheadTask::start((info, holders), Failures::default(), (owner, host), room);
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

    /// Whether something is expected that no worker has taken.
    pub(in crate::transfer::readahead) fn expects_more(&self) -> bool {
        let backlog = self.backlog.lock();
        !backlog.idle && backlog.order.len() > 0
    }

    /// Has hosts that have not been asked about expected paths asked now whether they have them too.
    pub(in crate::transfer::readahead) fn look_for_holders(&self) {
        let paths = std::mem::take(&mut self.backlog.lock().not_looked_for);
        self.bookkeeping.look_for_holders(paths);
    }

    /// How many bytes could be read ahead from this host next, among the first paths.
    pub(in crate::transfer::readahead) fn bytes_waiting_for(&self, host: HostId) -> u64 {
        let backlog = self.backlog.lock();
        let ready = backlog.order.ready().take(LOOKAHEAD_PATHS);
        let demanded = backlog.demanded.bytes_for(host);
        ready
            .filter_map(|path| backlog.expected.get(path))
            .filter(|expected| {
                !expected.has_failed() && expected.holders(&self.bookkeeping).contains(&host)
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
                .next_for(
                    host,
                    &self.bookkeeping,
                    (&self.chunks, &self.deltas),
                    &self.room,
                )
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
                    let room = self.room.anywhere(info.nar_size)?;
                    break backlog.start_task(&path, (owner, host), room, &self.in_flight)?;
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
        let (throughput, size) = (&self.bookkeeping.throughput, task.info.nar_size);
        let outstanding = match size > SMALL_NAR {
            true => throughput.request_stream(host, size),
            false => throughput.request(host, size),
        };
        AssignedTask {
            outstanding: Some(outstanding),
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
        let (path, host, size) = backlog
            .order
            .ready()
            .take(LOOKAHEAD_PATHS)
            .find_map(|path| {
                let expected = backlog.expected.get(path)?;
                // Cheaper than looking holders up, and most paths are small.
                let size = expected.info.nar_size;
                if expected.has_failed() || size < MIN_NAR_SIZE || !self.room.suits(size) {
                    return None;
                }
                let holders = expected.holders(&self.bookkeeping);
                let suits = expected.suits_chunks(&self.chunks, &holders)
                    && matches!(self.deltas.state(&expected.info, &holders), DeltaState::No);
                suits.then(|| (path.clone(), expected.holders[0], size))
            })?;
        if let Some(reader) = self.join(&backlog.expected.get(&path)?.info) {
            backlog.track(&path, reader);
            drop(backlog);
            // There may be another one.
            self.wake();
            return None;
        }
        let room = self.room.anywhere(size)?;
        let task = backlog.start_task(&path, (owner, host), room, &self.in_flight)?;
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
