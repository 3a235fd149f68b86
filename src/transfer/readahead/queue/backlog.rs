//! What is expected of one caller, and what is being read ahead for it. Pure bookkeeping, under the
//! queue's lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ReadaheadQueue;
use super::demand_fetch::DemandFetch;
use super::fetch_order::FetchOrder;
use crate::model::{PathInfo, StorePath};
use crate::pool::HostId;
use crate::transfer::chunks::ChunkedDownloads;
use crate::transfer::hosts::HostBookkeeping;
use crate::transfer::readahead::memory_budget::reservation_for;
use crate::transfer::readahead::task::{OwnerId, ReadaheadTask, TaskReader};

/// How many paths are looked at for one that suits a worker.
pub(in crate::transfer::readahead) const LOOK: usize = 64;

/// A NAR that a host has been asked for so long ago, and that has not begun to come, may be asked
/// of another one.
const STEAL_AFTER: Duration = Duration::from_millis(200);

/// How many dumps may pass before what was read ahead and not fetched makes room, when room is
/// short.
const STALE: u64 = 16;

pub(in crate::transfer::readahead) struct Backlog {
    pub(in crate::transfer::readahead) order: FetchOrder,
    /// What is in the order.
    pub(in crate::transfer::readahead) expected: HashMap<StorePath, ExpectedPath>,
    /// What is being read ahead, or has been.
    pub(in crate::transfer::readahead) tasks: BTreeMap<StorePath, TrackedTask>,
    /// What the caller has fetched, and when.
    pub(in crate::transfer::readahead) fetched: HashMap<StorePath, Instant>,
    /// What it waits for and no worker has asked for.
    pub(in crate::transfer::readahead) urgent: VecDeque<DemandFetch>,
    pub(in crate::transfer::readahead) workers: HashMap<HostId, usize>,
    /// Dumps that the caller has asked for.
    pub(in crate::transfer::readahead) dumps: u64,
    /// When the last one was.
    pub(in crate::transfer::readahead) latest: Instant,
    /// It was too long ago.
    pub(in crate::transfer::readahead) idle: bool,
}

#[derive(Clone)]
pub(in crate::transfer::readahead) struct ExpectedPath {
    pub(in crate::transfer::readahead) info: Arc<PathInfo>,
    pub(in crate::transfer::readahead) holders: Arc<[HostId]>,
    /// A worker has failed to bring it.
    pub(in crate::transfer::readahead) failed: bool,
}

impl ExpectedPath {
    pub(in crate::transfer::readahead) fn holders(&self, book: &HostBookkeeping) -> Vec<HostId> {
        book.holders(&self.info.path, &self.holders)
    }
}

pub(in crate::transfer::readahead) struct TrackedTask {
    pub(in crate::transfer::readahead) reader: TaskReader,
    pub(in crate::transfer::readahead) asked: Instant,
    /// The number of dumps when it was asked for.
    pub(in crate::transfer::readahead) dumps: u64,
}

impl Backlog {
    pub(in crate::transfer::readahead) fn new() -> Self {
        Self {
            order: FetchOrder::default(),
            expected: HashMap::new(),
            tasks: BTreeMap::new(),
            fetched: HashMap::new(),
            urgent: VecDeque::new(),
            workers: HashMap::new(),
            dumps: 0,
            latest: Instant::now(),
            idle: false,
        }
    }

    /// Expects a path; whether it was not expected before.
    pub(in crate::transfer::readahead) fn expect(
        &mut self,
        info: &Arc<PathInfo>,
        holders: &Arc<[HostId]>,
        failed: bool,
    ) -> bool {
        let new = self.order.add(&info.path, &info.references);
        if new {
            let expected = ExpectedPath {
                info: info.clone(),
                holders: holders.clone(),
                failed,
            };
            self.expected.insert(info.path.clone(), expected);
        }
        new
    }

    /// Makes a task of an expected path, if there is room for it.
    pub(in crate::transfer::readahead) fn start_task(
        &mut self,
        path: &StorePath,
        owner: (OwnerId, HostId),
        queue: &ReadaheadQueue,
    ) -> Option<Arc<ReadaheadTask>> {
        let ExpectedPath { info, holders, .. } = self.expected.get(path)?.clone();
        let room = queue.budget.reserve(reservation_for(info.nar_size))?;
        let reader = ReadaheadTask::start(info, holders, owner, room);
        let task = reader.task.clone();
        queue.in_flight.put(&task);
        self.track(path, reader);
        Some(task)
    }

    /// An expected path is being read ahead.
    pub(in crate::transfer::readahead) fn track(&mut self, path: &StorePath, reader: TaskReader) {
        self.expected.remove(path);
        self.order.remove(path);
        let entry = TrackedTask {
            reader,
            asked: Instant::now(),
            dumps: self.dumps,
        };
        self.tasks.insert(path.clone(), entry);
    }

    pub(in crate::transfer::readahead) fn next_for(
        &self,
        host: HostId,
        book: &HostBookkeeping,
        chunks: &ChunkedDownloads,
    ) -> Option<&StorePath> {
        self.order.ready().take(LOOK).find(|path| {
            self.expected.get(*path).is_some_and(|expected| {
                let holders = expected.holders(book);
                let size = expected.info.nar_size;
                !expected.failed
                    && holders.contains(&host)
                    && !book.sent_wrong_content(host, path)
                    && !chunks.suits(&expected.info, &holders)
                    && book.rates.is_worth_asking(host, size, &holders)
            })
        })
    }

    /// A NAR that another host was asked for and that this one would have brought sooner.
    pub(in crate::transfer::readahead) fn steal(
        &mut self,
        host: HostId,
        owner: OwnerId,
        book: &HostBookkeeping,
    ) -> Option<Arc<ReadaheadTask>> {
        let (task, loser) = self.tasks.values().find_map(|entry| {
            let task = &entry.reader.task;
            let other = task.awaited_from().filter(|other| *other != host)?;
            let waits = entry.asked.elapsed() > STEAL_AFTER;
            let mine = book.rates.expect(host, task.info.nar_size);
            let sooner = mine * 2.0 < book.rates.expect(other, 0);
            let holders = book.holders(&task.info.path, &task.holders);
            let suits = holders.contains(&host) && !book.sent_wrong_content(host, &task.info.path);
            (waits && sooner && suits).then(|| task.steal(owner, host))??;
            Some((task.clone(), other))
        })?;
        let [loser, winner] = [loser, host].map(|host| book.pool.host(host));
        log::debug!(
            "{winner} brings {}, asked of {loser} before",
            task.info.path
        );
        Some(task)
    }

    /// What was read along and is lost before anything of it had come is expected again.
    pub(in crate::transfer::readahead) fn expect_lost_again(&mut self) {
        let (lost, others) = std::mem::take(&mut self.tasks)
            .into_iter()
            .partition(|(_, entry)| entry.reader.is_lost());
        self.tasks = others;
        for TrackedTask { reader, .. } in BTreeMap::into_values(lost) {
            self.expect(&reader.task.info, &reader.task.holders, false);
        }
    }

    pub(in crate::transfer::readahead) fn drop_stale(&mut self) {
        let dumps = self.dumps;
        let stale =
            |entry: &TrackedTask| dumps - entry.dumps >= STALE && entry.reader.task.is_complete();
        self.tasks.retain(|_, entry| !stale(entry));
    }
}
