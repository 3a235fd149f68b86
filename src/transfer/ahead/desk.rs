//! Which NAR is read ahead next, and by whom: everything that workers and the caller share.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::budget::{Budget, Memory, room_for};
use super::job::{Job, Reader, Token};
use super::order::Order;
use super::shelf::Shelf;
use crate::model::{PathInfo, StorePath};
use crate::pool::HostId;
use crate::transfer::book::Book;
use crate::transfer::rates::Owed;
use crate::transfer::stripe::{LEAST, Striper};

/// How many bytes one worker asks for ahead of what it receives, as long as there is more than one
/// NAR in it: twice what one channel of ssh moves in a round trip.
const PIPELINE: u64 = 4 << 20;

/// The same in NARs.
const PIPELINE_NARS: usize = 1000;

/// How many paths are looked at for one that suits a worker.
const LOOK: usize = 64;

/// A NAR that a host has been asked for so long ago, and that has not begun to come, may be asked
/// of another one.
const STEAL_AFTER: Duration = Duration::from_millis(200);

/// How many dumps may pass before what was read ahead and not fetched makes room, when room is
/// short.
const STALE: u64 = 16;

/// A caller that has fetched nothing for so long gets nothing more read ahead, until it fetches again.
const IDLE: Duration = Duration::from_secs(60);

/// How many paths are expected at most, and how many fetched ones are remembered.
const EXPECTED: usize = 200_000;

pub(super) struct Desk {
    pub(super) book: Arc<Book>,
    pub(super) striper: Arc<Striper>,
    shelf: Arc<Shelf>,
    budget: Arc<Budget>,
    // Held for some map operations, never over an await.
    state: Mutex<State>,
    /// Changes when there may be something to do for workers.
    version: watch::Sender<u64>,
}

struct State {
    order: Order,
    /// What is in the order.
    expected: HashMap<StorePath, Expected>,
    /// What is being read ahead, or has been.
    jobs: HashMap<StorePath, Entry>,
    fetched: HashSet<StorePath>,
    workers: HashMap<HostId, usize>,
    /// Dumps that the caller has asked for.
    dumps: u64,
    /// When the last one was.
    latest: Instant,
    /// It was too long ago.
    idle: bool,
}

#[derive(Clone)]
struct Expected {
    info: Arc<PathInfo>,
    holders: Arc<[HostId]>,
    /// A worker has failed to bring it.
    failed: bool,
}

impl Expected {
    fn holders(&self, book: &Book) -> Vec<HostId> {
        book.holders(&self.info.path, &self.holders)
    }
}

struct Entry {
    reader: Reader,
    asked: Instant,
    /// The number of dumps when it was asked for.
    dumps: u64,
}

/// A job that a worker has taken on. Dropping it unfinished gives it back.
pub(super) struct Taken {
    pub(super) job: Arc<Job>,
    pub(super) token: Token,
    desk: Arc<Desk>,
    owed: Option<Owed>,
    done: bool,
}

impl Desk {
    pub(super) fn new(
        book: Arc<Book>,
        striper: Arc<Striper>,
        shelf: Arc<Shelf>,
        memory: Arc<Memory>,
    ) -> Self {
        let state = State {
            order: Order::default(),
            expected: HashMap::new(),
            jobs: HashMap::new(),
            fetched: HashSet::new(),
            workers: HashMap::new(),
            dumps: 0,
            latest: Instant::now(),
            idle: false,
        };
        Self {
            book,
            striper,
            shelf,
            budget: Arc::new(Budget::new(memory)),
            state: Mutex::new(state),
            version: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether there may be more to do.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn wake(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// The caller has asked what this path is, so it will fetch it, unless it has already.
    pub(super) fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        let mut state = self.lock();
        let path = &info.path;
        // Without size and hash it can be neither planned nor verified.
        let unsuitable = info.nar_size == 0
            || info.nar_hash.is_none()
            || room_for(info.nar_size) > self.budget.largest();
        let known = state.jobs.contains_key(path) || state.fetched.contains(path);
        if unsuitable || known || state.order.len() >= EXPECTED {
            return;
        }
        if state.expect(info, holders, false) {
            drop(state);
            self.wake();
        }
    }

    /// Drops what was read ahead for a caller that has not fetched anything for long. It is expected
    /// as before, and read ahead again once the caller goes on.
    pub(super) fn rest_if_idle(&self) {
        let mut state = self.lock();
        if state.latest.elapsed() < IDLE {
            return;
        }
        state.idle = true;
        let (complete, others) = std::mem::take(&mut state.jobs)
            .into_iter()
            .partition(|(_, entry)| entry.reader.job.is_complete());
        state.jobs = others;
        for Entry { reader, .. } in HashMap::into_values(complete) {
            state.expect(&reader.job.info, &reader.job.holders, false);
        }
    }

    /// The caller fetches `path` now: what is being read ahead of it, if it is.
    pub(super) fn fetch(&self, info: &PathInfo) -> Option<Reader> {
        let path = &info.path;
        let mut state = self.lock();
        state.dumps += 1;
        state.latest = Instant::now();
        state.idle = false;
        if state.fetched.len() >= EXPECTED {
            state.fetched.clear();
        }
        state.fetched.insert(path.clone());
        self.budget.caller_fetches(info.nar_size);
        state.order.remove(path);
        state.expected.remove(path);
        let reader = state.jobs.remove(path).map(|entry| entry.reader);
        if reader.is_none() && self.budget.is_nearly_full() {
            state.drop_stale();
        }
        drop(state);
        self.wake();
        let same = |reader: &Reader| {
            let theirs = &reader.job.info;
            (theirs.nar_hash, theirs.nar_size) == (info.nar_hash, info.nar_size)
        };
        let reader = reader.filter(same).or_else(|| self.shelf.join(info));
        reader.filter(Reader::want)
    }

    /// How many bytes could be read ahead from this host next, as far as one looks.
    pub(super) fn waiting_for(&self, host: HostId) -> u64 {
        let state = self.lock();
        let ready = state.order.ready().take(LOOK);
        ready
            .filter_map(|path| state.expected.get(path))
            .filter(|expected| !expected.failed && expected.holders(&self.book).contains(&host))
            .map(|expected| expected.info.nar_size)
            .fold(0, u64::saturating_add)
    }

    /// A worker for `host` starts, unless there are `limit` of them.
    pub(super) fn enlist(&self, host: HostId, limit: usize) -> bool {
        let mut state = self.lock();
        let count = state.workers.entry(host).or_default();
        let room = *count < limit;
        *count += usize::from(room);
        room
    }

    pub(super) fn dismiss(&self, host: HostId) {
        if let Some(count) = self.lock().workers.get_mut(&host) {
            *count -= 1;
        }
    }

    /// The next NAR for a worker of `host` that has asked for `nars` NARs of `bytes` bytes which
    /// have not come yet.
    pub(super) fn pick(self: &Arc<Self>, host: HostId, nars: usize, bytes: u64) -> Option<Taken> {
        let mut state = self.lock();
        if state.idle {
            return None;
        }
        let fits = |size: u64| nars == 0 || (nars < PIPELINE_NARS && bytes + size <= PIPELINE);
        let token = self.shelf.new_token();
        let job = loop {
            let next = state.next_for(host, &self.book, &self.striper).cloned();
            match next {
                Some(path) => {
                    let info = &state.expected.get(&path)?.info;
                    if let Some(reader) = self.shelf.join(info) {
                        state.read_along(&path, reader);
                        continue;
                    }
                    if !fits(info.nar_size) {
                        return None;
                    }
                    break state.take_on(&path, (token, host), self)?;
                }
                // Nothing is left to ask for: what others are slow to bring.
                None if nars == 0 => break state.steal(host, token, &self.book)?,
                None => return None,
            }
        };
        drop(state);
        let owed = Some(self.book.rates.ask(host, job.info.nar_size));
        Some(Taken {
            job,
            token,
            desk: self.clone(),
            owed,
            done: false,
        })
    }

    /// The next NAR that should come in parts.
    pub(super) fn pick_large(self: &Arc<Self>) -> Option<Taken> {
        let mut state = self.lock();
        if state.idle {
            return None;
        }
        let token = self.shelf.new_token();
        let (path, host) = state.order.ready().take(LOOK).find_map(|path| {
            let expected = state.expected.get(path)?;
            // Before anybody is looked up: mostly all of them are small.
            if expected.failed || expected.info.nar_size < LEAST {
                return None;
            }
            let holders = expected.holders(&self.book);
            let suits = self.striper.suits(&expected.info, &holders);
            suits.then(|| (path.clone(), expected.holders[0]))
        })?;
        if let Some(reader) = self.shelf.join(&state.expected.get(&path)?.info) {
            state.read_along(&path, reader);
            drop(state);
            // There may be another one.
            self.wake();
            return None;
        }
        let job = state.take_on(&path, (token, host), self)?;
        drop(state);
        job.begin(token);
        Some(Taken {
            job,
            token,
            desk: self.clone(),
            owed: None,
            done: false,
        })
    }
}

impl State {
    /// Expects a path; whether it was not expected before.
    fn expect(&mut self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>, failed: bool) -> bool {
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
    fn take_on(
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
    fn read_along(&mut self, path: &StorePath, reader: Reader) {
        self.expected.remove(path);
        self.order.remove(path);
        let entry = Entry {
            reader,
            asked: Instant::now(),
            dumps: self.dumps,
        };
        self.jobs.insert(path.clone(), entry);
    }

    fn next_for(&self, host: HostId, book: &Book, striper: &Striper) -> Option<&StorePath> {
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
    fn steal(&mut self, host: HostId, token: Token, book: &Book) -> Option<Arc<Job>> {
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
        log::debug!(
            "{}: asked of host {loser:?}, brought by {host:?}",
            job.info.path
        );
        Some(job)
    }

    fn drop_stale(&mut self) {
        let dumps = self.dumps;
        let stale = |entry: &Entry| dumps - entry.dumps >= STALE && entry.reader.job.is_complete();
        self.jobs.retain(|_, entry| !stale(entry));
    }
}

impl Taken {
    /// So many bytes of it have come.
    pub(super) fn received(&mut self, bytes: u64) {
        if let Some(owed) = &mut self.owed {
            owed.received(bytes);
        }
    }

    /// It is whole, or somebody else's.
    pub(super) fn finish(mut self) {
        self.done = true;
    }

    /// The worker cannot bring it; it counts against it when `blamed`.
    pub(super) fn fail(mut self, blamed: bool) {
        self.hand_back(blamed);
    }

    fn hand_back(&mut self, blamed: bool) {
        self.done = true;
        let job = &self.job;
        if !job.give_up(self.token) {
            return;
        }
        let mut state = self.desk.lock();
        // The caller may have taken it away meanwhile.
        if state.jobs.remove(&job.info.path).is_some() {
            state.expect(&job.info, &job.holders, blamed);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.done {
            self.hand_back(false);
        }
        self.desk.wake();
    }
}
