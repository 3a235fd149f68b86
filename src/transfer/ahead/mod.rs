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
//! | `job` | one NAR, between worker and callers |
//! | `shelf` | what callers share |
//! | `state` | what is known of one caller |
//! | `desk` | what workers and their caller share |
//! | `urgent` | what the caller waits for and nobody has asked for |
//! | `worker` | one connection to one host |
//! | `large` | NARs that come in parts |

mod budget;
mod desk;
mod job;
mod large;
mod order;
mod shelf;
mod state;
mod urgent;
mod worker;

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::book::Book;
use super::stripe::{FAR, Striper};
use crate::model::PathInfo;
use crate::pool::HostId;
pub(super) use budget::Memory;
use desk::Desk;
pub(super) use job::{Next, Reader};
use shelf::Shelf;

/// How many bytes are worth one more channel.
const SHARE: u64 = 4 << 20;

/// NARs up to this size, in bytes, go through a worker even if somebody waits for them already, and come
/// to their end even if nobody does any more.
const SMALL_NAR: u64 = 4 << 20;

/// Large NARs that are brought at the same time, so that one follows the other without a pause.
const LARGE: usize = 4;

/// What all callers share.
pub(super) struct Common {
    pub(super) book: Arc<Book>,
    pub(super) striper: Arc<Striper>,
    pub(super) memory: Arc<Memory>,
    shelf: Arc<Shelf>,
}

impl Common {
    /// Holds at most `memory` bytes.
    pub(super) fn new(book: Arc<Book>, striper: Arc<Striper>, memory: u64) -> Self {
        Self {
            book,
            striper,
            memory: Arc::new(Memory::new(memory)),
            shelf: Arc::default(),
        }
    }
}

/// A NAR that comes by itself.
pub(super) enum Ahead {
    /// It has been asked for.
    Asked(Reader),
    /// It waits for a worker.
    Waiting(Reader),
}

/// Reads ahead for one caller with tasks of its own, which end when this is dropped.
pub(super) struct Readahead {
    desk: Arc<Desk>,
    /// Locked to add one.
    workers: Mutex<JoinSet<()>>,
    /// The caller has begun to fetch.
    begun: AtomicBool,
}

impl Readahead {
    pub(super) fn new(common: &Common) -> Self {
        let desk = Desk::new(
            common.book.clone(),
            common.striper.clone(),
            common.shelf.clone(),
            common.memory.clone(),
        );
        Self {
            desk: Arc::new(desk),
            workers: Mutex::default(),
            begun: AtomicBool::new(false),
        }
    }

    /// The caller has asked what this path is.
    pub(super) fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        self.desk.expect(info, holders);
        if self.begun.load(Ordering::Relaxed) {
            self.engage();
        }
    }

    /// What the caller has fetched it may fetch again.
    pub(super) fn begin_anew(&self) {
        self.desk.begin_anew();
    }

    /// Drops what was read ahead for a caller that has not fetched anything for a minute.
    pub(super) fn rest_if_idle(&self) {
        self.desk.rest_if_idle();
    }

    /// The caller fetches this path: what has been read ahead of it, or will be soon.
    pub(super) fn fetch(&self, info: &PathInfo, holders: &[HostId]) -> Option<Ahead> {
        let first = !self.begun.swap(true, Ordering::Relaxed);
        let job = match self.desk.fetch(info) {
            Some(reader) => Some(Ahead::Asked(reader)),
            None => self.desk.hurry(info, holders).map(Ahead::Waiting),
        };
        if first {
            let mut workers = self.workers();
            for _ in 0..LARGE {
                workers.spawn(large::run(self.desk.clone()));
            }
        }
        self.engage();
        job
    }

    /// Takes back what is [waiting](Ahead::Waiting). Whether nobody has asked for it yet.
    pub(super) fn withdraw(&self, reader: &Reader) -> bool {
        self.desk.withdraw(reader)
    }

    fn workers(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.workers.lock()
    }

    /// Sets as many workers to work as there is work for.
    fn engage(&self) {
        let pool = &self.desk.book.pool;
        for host in pool.hosts() {
            let waiting = self.desk.waiting_for(host);
            if waiting == 0 || !pool.is_well(host) {
                continue;
            }
            let latency = pool.latency(host).unwrap_or_default();
            self.desk.book.rates.set_latency(host, latency);
            let places = if latency < FAR {
                1
            } else {
                // The others are for large NARs.
                (pool.background_limit(host) / 3).max(1)
            };
            let wanted = usize::try_from(waiting / SHARE).unwrap_or(usize::MAX);
            let limit = wanted.saturating_add(1).min(places);
            while self.desk.enlist(host, limit) {
                let mut workers = self.workers();
                while workers.try_join_next().is_some() {}
                workers.spawn(worker::run(self.desk.clone(), host));
            }
        }
    }
}
