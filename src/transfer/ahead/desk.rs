//! Which NAR is read ahead next, and by whom: everything that workers and the caller share.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::budget::{Budget, room_for};
use super::job::{Job, Token};
use super::order::Order;
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

/// How many paths are expected at most, and how many fetched ones are remembered.
const EXPECTED: usize = 200_000;

pub(super) struct Desk {
    pub(super) book: Arc<Book>,
    pub(super) striper: Arc<Striper>,
    budget: Arc<Budget>,
    // Held for some map operations, never over an await.
    state: Mutex<State>,
    /// Changes when there may be something to do for workers.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    order: Order,
    /// What is in the order.
    expected: HashMap<StorePath, Expected>,
    /// What is being read ahead, or has been.
    jobs: HashMap<StorePath, Entry>,
    fetched: HashSet<StorePath>,
    workers: HashMap<HostId, usize>,
    tokens: u64,
    /// Dumps that the caller has asked for.
    dumps: u64,
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
    job: Arc<Job>,
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
    pub(super) fn new(book: Arc<Book>, striper: Arc<Striper>, memory: u64) -> Self {
        Self {
            book,
            striper,
            budget: Arc::new(Budget::new(memory)),
            state: Mutex::default(),
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
        if state.order.add(path, &info.references) {
            let expected = Expected {
                info: info.clone(),
                holders: holders.clone(),
                failed: false,
            };
            state.expected.insert(path.clone(), expected);
            drop(state);
            self.wake();
        }
    }

    /// The caller fetches `path` now: what is being read ahead of it, if it is.
    pub(super) fn fetch(&self, info: &PathInfo) -> Option<Arc<Job>> {
        let path = &info.path;
        let mut state = self.lock();
        state.dumps += 1;
        if state.fetched.len() >= EXPECTED {
            state.fetched.clear();
        }
        state.fetched.insert(path.clone());
        self.budget.caller_fetches(info.nar_size);
        state.order.remove(path);
        state.expected.remove(path);
        let job = state.jobs.remove(path).map(|entry| entry.job);
        if job.is_none() && self.budget.is_nearly_full() {
            state.drop_stale();
        }
        drop(state);
        self.wake();
        let same = |job: &Arc<Job>| {
            (job.info.nar_hash, job.info.nar_size) == (info.nar_hash, info.nar_size)
        };
        job.filter(|job| same(job) && job.want())
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
        let fits = |size: u64| nars == 0 || (nars < PIPELINE_NARS && bytes + size <= PIPELINE);
        let token = Token(state.tokens);
        let next = state.next_for(host, &self.book, &self.striper).cloned();
        let job = match next {
            Some(path) => {
                if !fits(state.expected.get(&path)?.info.nar_size) {
                    return None;
                }
                state.take_on(&path, (token, host), &self.budget)?
            }
            // Nothing is left to ask for: what others are slow to bring.
            None if nars == 0 => state.steal(host, token, &self.book)?,
            None => return None,
        };
        state.tokens += 1;
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
        let token = Token(state.tokens);
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
        let job = state.take_on(&path, (token, host), &self.budget)?;
        state.tokens += 1;
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
    /// Makes a job of an expected path, if there is room for it.
    fn take_on(
        &mut self,
        path: &StorePath,
        owner: (Token, HostId),
        budget: &Arc<Budget>,
    ) -> Option<Arc<Job>> {
        let size = self.expected.get(path)?.info.nar_size;
        let room = budget.reserve(room_for(size))?;
        let Expected { info, holders, .. } = self.expected.remove(path)?;
        self.order.remove(path);
        let job = Arc::new(Job::new(info, holders, owner, room));
        let entry = Entry {
            job: job.clone(),
            asked: Instant::now(),
            dumps: self.dumps,
        };
        self.jobs.insert(path.clone(), entry);
        Some(job)
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
            let job = &entry.job;
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
        let stale = |entry: &Entry| dumps - entry.dumps >= STALE && entry.job.is_complete();
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
        let path = &job.info.path;
        if state.jobs.remove(path).is_some() && state.order.add(path, &job.info.references) {
            let expected = Expected {
                info: job.info.clone(),
                holders: job.holders.clone(),
                failed: blamed,
            };
            state.expected.insert(path.clone(), expected);
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
