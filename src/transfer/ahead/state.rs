//! What is expected of one caller, and what is being read ahead for it. Pure bookkeeping, under the
//! desk's lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::room_for;
use super::desk::Desk;
use super::job::{Job, Reader, Token};
use super::order::Order;
use super::urgent::Urgent;
use crate::model::{PathInfo, StorePath};
use crate::pool::HostId;
use crate::transfer::book::Book;
use crate::transfer::stripe::Striper;

/// How many paths are looked at for one that suits a worker.
pub(super) const LOOK: usize = 64;

/// A NAR that a host has been asked for so long ago, and that has not begun to come, may be asked
/// of another one.
const STEAL_AFTER: Duration = Duration::from_millis(200);

/// How many dumps may pass before what was read ahead and not fetched makes room, when room is
/// short.
const STALE: u64 = 16;

pub(super) struct State {
    pub(super) order: Order,
    /// What is in the order.
    pub(super) expected: HashMap<StorePath, Expected>,
    /// What is being read ahead, or has been.
    pub(super) jobs: BTreeMap<StorePath, Entry>,
    /// What the caller has fetched, and when.
    pub(super) fetched: HashMap<StorePath, Instant>,
    /// What it waits for and no worker has asked for.
    pub(super) urgent: VecDeque<Urgent>,
    pub(super) workers: HashMap<HostId, usize>,
    /// Dumps that the caller has asked for.
    pub(super) dumps: u64,
    /// When the last one was.
    pub(super) latest: Instant,
    /// It was too long ago.
    pub(super) idle: bool,
}

#[derive(Clone)]
pub(super) struct Expected {
    pub(super) info: Arc<PathInfo>,
    pub(super) holders: Arc<[HostId]>,
    /// A worker has failed to bring it.
    pub(super) failed: bool,
}

impl Expected {
    pub(super) fn holders(&self, book: &Book) -> Vec<HostId> {
        book.holders(&self.info.path, &self.holders)
    }
}

pub(super) struct Entry {
    pub(super) reader: Reader,
    pub(super) asked: Instant,
    /// The number of dumps when it was asked for.
    pub(super) dumps: u64,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            order: Order::default(),
            expected: HashMap::new(),
            jobs: BTreeMap::new(),
            fetched: HashMap::new(),
            urgent: VecDeque::new(),
            workers: HashMap::new(),
            dumps: 0,
            latest: Instant::now(),
            idle: false,
        }
    }

    /// Expects a path; whether it was not expected before.
    pub(super) fn expect(
        &mut self,
        info: &Arc<PathInfo>,
        holders: &Arc<[HostId]>,
        failed: bool,
    ) -> bool {
        let new = self.order.add(&info.path, &info.references);
        if new {
            let expected = Expected {
                info: info.clone(),
                holders: holders.clone(),
                failed,
            };
            self.expected.insert(info.path.clone(), expected);
        }
        new
    }

    /// Makes a job of an expected path, if there is room for it.
    pub(super) fn take_on(
        &mut self,
        path: &StorePath,
        owner: (Token, HostId),
        desk: &Desk,
    ) -> Option<Arc<Job>> {
        let Expected { info, holders, .. } = self.expected.get(path)?.clone();
        let room = desk.budget.reserve(room_for(info.nar_size))?;
        let reader = Job::start(info, holders, owner, room);
        let job = reader.job.clone();
        desk.shelf.put(&job);
        self.read_along(path, reader);
        Some(job)
    }

    /// An expected path is being read ahead.
    pub(super) fn read_along(&mut self, path: &StorePath, reader: Reader) {
        self.expected.remove(path);
        self.order.remove(path);
        let entry = Entry {
            reader,
            asked: Instant::now(),
            dumps: self.dumps,
        };
        self.jobs.insert(path.clone(), entry);
    }

    pub(super) fn next_for(
        &self,
        host: HostId,
        book: &Book,
        striper: &Striper,
    ) -> Option<&StorePath> {
        self.order.ready().take(LOOK).find(|path| {
            self.expected.get(*path).is_some_and(|expected| {
                let holders = expected.holders(book);
                let size = expected.info.nar_size;
                !expected.failed
                    && holders.contains(&host)
                    && !book.is_spoilt(host, path)
                    && !striper.suits(&expected.info, &holders)
                    && book.rates.is_worth_asking(host, size, &holders)
            })
        })
    }

    /// A NAR that another host was asked for and that this one would have brought sooner.
    pub(super) fn steal(&mut self, host: HostId, token: Token, book: &Book) -> Option<Arc<Job>> {
        let (job, loser) = self.jobs.values().find_map(|entry| {
            let job = &entry.reader.job;
            let other = job.awaited_from().filter(|other| *other != host)?;
            let waits = entry.asked.elapsed() > STEAL_AFTER;
            let mine = book.rates.expect(host, job.info.nar_size);
            let sooner = mine * 2.0 < book.rates.expect(other, 0);
            let holders = book.holders(&job.info.path, &job.holders);
            let suits = holders.contains(&host) && !book.is_spoilt(host, &job.info.path);
            (waits && sooner && suits).then(|| job.steal(token, host))??;
            Some((job.clone(), other))
        })?;
        let [loser, winner] = [loser, host].map(|host| book.pool.host(host));
        log::debug!("{winner} brings {}, asked of {loser} before", job.info.path);
        Some(job)
    }

    /// What was read along and is lost before anything of it had come is expected again.
    pub(super) fn expect_lost_again(&mut self) {
        let (lost, others) = std::mem::take(&mut self.jobs)
            .into_iter()
            .partition(|(_, entry)| entry.reader.is_lost());
        self.jobs = others;
        for Entry { reader, .. } in BTreeMap::into_values(lost) {
            self.expect(&reader.job.info, &reader.job.holders, false);
        }
    }

    pub(super) fn drop_stale(&mut self) {
        let dumps = self.dumps;
        let stale = |entry: &Entry| dumps - entry.dumps >= STALE && entry.reader.job.is_complete();
        self.jobs.retain(|_, entry| !stale(entry));
    }
}
