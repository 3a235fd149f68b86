//! What one caller is expected to fetch, and what is being read ahead for it. Pure bookkeeping, under the queue's lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::demand_fetch::DemandFetches;
use super::fetch_order::FetchOrder;
use crate::model::{PathInfo, StorePath};
use crate::pool::HostId;
use crate::transfer::chunks::ChunkedDownloads;
use crate::transfer::deltas::{DeltaState, Deltas};
use crate::transfer::hosts::HostBookkeeping;
use crate::transfer::readahead::in_flight::InFlight;
use crate::transfer::readahead::room::{CallerRoom, Room};
use crate::transfer::readahead::task::{Failures, OwnerId, ReadaheadTask, SMALL_NAR, TaskReader};

/// Among how many paths one is searched that suits a worker.
pub(super) const LOOKAHEAD_PATHS: usize = 64;

/// How long after the first byte of a NAR was due another host may take it over, if it has not begun to come.
const STEAL_AFTER: Duration = Duration::from_millis(200);

/// How many round trips it takes until the first byte is due: two for a new channel, one for the request.
const FIRST_BYTE_ROUND_TRIPS: u32 = 3;

/// After how many more fetches a NAR that was read ahead and not fetched is dropped, when memory is short.
const STALE_AFTER_FETCHES: u64 = 16;

/// How often workers fail at a path before no other one tries.
pub(super) const MAX_FAILURES: u32 = 3;

/// How many paths wait at most for their holders to be looked for.
const NOT_LOOKED_FOR_MAX: usize = 20_000;

pub(super) struct Backlog {
    pub(super) order: FetchOrder,
    /// The paths in the order.
    pub(super) expected: HashMap<StorePath, ExpectedPath>,
    /// Those of them whose holders were not looked for.
    pub(super) not_looked_for: Vec<StorePath>,
    /// What is being read ahead, or has been and was not fetched.
    pub(super) tasks: BTreeMap<StorePath, TrackedTask>,
    /// What the caller has fetched, and when.
    pub(super) fetched: HashMap<StorePath, Instant>,
    /// What the caller waits for and no worker has requested.
    pub(super) demanded: DemandFetches,
    pub(super) workers: HashMap<HostId, usize>,
    /// How many paths the caller has fetched.
    pub(super) fetches: u64,
    /// When it did last.
    pub(super) last_fetch: Instant,
    /// That is too long ago: nothing is read ahead.
    pub(super) idle: bool,
}

#[derive(Clone)]
pub(super) struct ExpectedPath {
    pub(super) info: Arc<PathInfo>,
    pub(super) holders: Arc<[HostId]>,
    /// How workers have failed to bring it.
    pub(super) failures: Failures,
}

impl ExpectedPath {
    /// Whether no further worker tries.
    pub(super) fn has_failed(&self) -> bool {
        self.failures.count >= MAX_FAILURES
    }

    /// Whether it should come in chunks from these holders.
    pub(super) fn suits_chunks(&self, chunks: &ChunkedDownloads, holders: &[HostId]) -> bool {
        !self.failures.in_chunks && chunks.suits(&self.info, holders)
    }

    pub(super) fn holders(&self, bookkeeping: &HostBookkeeping) -> Vec<HostId> {
        bookkeeping.holders(&self.info.path, &self.holders)
    }
}

pub(super) struct TrackedTask {
    pub(super) reader: TaskReader,
    pub(super) requested_at: Instant,
    /// How many paths the caller had fetched then.
    pub(super) fetches: u64,
    /// It is made from what is here alone.
    pub(super) is_rebuild: bool,
}

impl Backlog {
    pub(super) fn new() -> Self {
        Self {
            order: FetchOrder::default(),
            expected: HashMap::new(),
            not_looked_for: Vec::new(),
            tasks: BTreeMap::new(),
            fetched: HashMap::new(),
            demanded: DemandFetches::default(),
            workers: HashMap::new(),
            fetches: 0,
            last_fetch: Instant::now(),
            idle: false,
        }
    }

    /// Expects a path. Whether it was not expected before.
    pub(super) fn expect(
        &mut self,
        info: &Arc<PathInfo>,
        holders: &Arc<[HostId]>,
        failures: Failures,
    ) -> bool {
        let new = self.order.add(&info.path, &info.references);
        if new {
            let expected = ExpectedPath {
                info: info.clone(),
                holders: holders.clone(),
                failures,
            };
            self.expected.insert(info.path.clone(), expected);
            if self.not_looked_for.len() < NOT_LOOKED_FOR_MAX {
                self.not_looked_for.push(info.path.clone());
            }
        }
        new
    }

    /// Expects these no longer.
    pub(super) fn leave_out(&mut self, which: &dyn Fn(&PathInfo) -> bool) {
        let order = &mut self.order;
        self.expected.retain(|path, expected| {
            let stays = !which(&expected.info);
            if !stays {
                order.remove(path);
            }
            stays
        });
    }

    /// Expects a path again that was read ahead in vain.
    pub(super) fn expect_again(&mut self, task: &ReadaheadTask) {
        self.expect(&task.info, &task.holders, task.failures);
    }

    /// Begins to read an expected path ahead.
    pub(super) fn start_task(
        &mut self,
        path: &StorePath,
        owner: (OwnerId, HostId),
        room: Room,
        in_flight: &InFlight,
    ) -> Option<Arc<ReadaheadTask>> {
        let ExpectedPath {
            info,
            holders,
            failures,
        } = self.expected.get(path)?.clone();
        let reader = ReadaheadTask::start((info, holders), failures, owner, room);
        let task = reader.task.clone();
        in_flight.insert(&task);
        self.track(path, reader);
        Some(task)
    }

    /// An expected path is being read ahead by this or another caller's worker.
    pub(super) fn track(&mut self, path: &StorePath, reader: TaskReader) {
        self.expected.remove(path);
        self.order.remove(path);
        let entry = TrackedTask {
            reader,
            requested_at: Instant::now(),
            fetches: self.fetches,
            is_rebuild: false,
        };
        self.tasks.insert(path.clone(), entry);
    }

    /// How many bytes have been or are made ahead from what is here.
    pub(super) fn rebuilt_ahead(&self) -> u64 {
        let rebuilds = self.tasks.values().filter(|entry| entry.is_rebuild);
        rebuilds.map(|entry| entry.reader.task.info.nar_size).sum()
    }

    /// What a worker of `host` should bring next. A large NAR comes on a channel of its own, where that is of use. A host
    /// that is slower than others brings what is wanted later.
    pub(super) fn next_for(
        &self,
        host: HostId,
        bookkeeping: &HostBookkeeping,
        (chunks, deltas): (&ChunkedDownloads, &Deltas),
        room: &CallerRoom,
    ) -> Option<&StorePath> {
        let throughput = &bookkeeping.throughput;
        let has_room = throughput.has_room_for_stream(host);
        let mut until_wanted = 0_u64;
        self.order.ready().take(LOOKAHEAD_PATHS).find(|path| {
            let Some(expected) = self.expected.get(*path) else {
                return false;
            };
            let size = expected.info.nar_size;
            until_wanted = until_wanted.saturating_add(size);
            if expected.has_failed() || (size > SMALL_NAR && !has_room) || !room.suits(size) {
                return false;
            }
            let holders = expected.holders(bookkeeping);
            holders.contains(&host)
                && !bookkeeping.sent_wrong_content(host, path)
                && matches!(deltas.state(&expected.info, &holders), DeltaState::No)
                && !expected.suits_chunks(chunks, &holders)
                && (throughput.is_worth_asking(host, size, &holders)
                    || (size > SMALL_NAR
                        && throughput.is_in_time(host, size, until_wanted, &holders)))
        })
    }

    /// Takes over a task that another host was requested_at for and that this one would finish sooner.
    pub(super) fn steal(
        &mut self,
        host: HostId,
        owner: OwnerId,
        bookkeeping: &HostBookkeeping,
    ) -> Option<Arc<ReadaheadTask>> {
        let (task, loser) = self.tasks.values().find_map(|entry| {
            let task = &entry.reader.task;
            let other = task.awaited_from().filter(|other| *other != host)?;
            // Sooner, a far host has sent it already, and it would come twice.
            let round_trip = bookkeeping.pool.latency(other).unwrap_or_default();
            let due = FIRST_BYTE_ROUND_TRIPS * round_trip;
            let waits = entry.requested_at.elapsed() > due + STEAL_AFTER;
            let mine = bookkeeping
                .throughput
                .estimate_secs(host, task.info.nar_size);
            let sooner = mine * 2.0 < bookkeeping.throughput.estimate_secs(other, 0);
            let holders = bookkeeping.holders(&task.info.path, &task.holders);
            let suits =
                holders.contains(&host) && !bookkeeping.sent_wrong_content(host, &task.info.path);
            (waits && sooner && suits).then(|| task.steal(owner, host))??;
            Some((task.clone(), other))
        })?;
        let [loser, winner] = [loser, host].map(|host| bookkeeping.pool.host(host));
        log::debug!(
            "{winner} brings {}, requested_at of {loser} before",
            task.info.path
        );
        Some(task)
    }

    /// Expects paths again whose worker failed before anything had come.
    pub(super) fn expect_lost_again(&mut self) {
        let (lost, others) = std::mem::take(&mut self.tasks)
            .into_iter()
            .partition(|(_, entry)| entry.reader.is_lost());
        self.tasks = others;
        for TrackedTask { reader, .. } in BTreeMap::into_values(lost) {
            self.expect_again(&reader.task);
        }
    }

    pub(super) fn drop_stale(&mut self) {
        let fetches = self.fetches;
        let stale = |entry: &TrackedTask| {
            fetches - entry.fetches >= STALE_AFTER_FETCHES && entry.reader.task.is_complete()
        };
        self.tasks.retain(|_, entry| !stale(entry));
    }
}
