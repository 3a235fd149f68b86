//! Which NAR is read ahead next, and by whom: everything that workers and the caller share.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::{Budget, Memory, room_for};
use super::job::{Job, Reader, Token};
use super::shelf::Shelf;
use super::state::{Entry, LOOK, State};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::book::Book;
use crate::transfer::rates::Owed;
use crate::transfer::stripe::{LEAST, Striper};
use crate::watch;

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

pub(super) struct Desk {
    pub(super) book: Arc<Book>,
    pub(super) striper: Arc<Striper>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) budget: Arc<Budget>,
    pub(super) state: Mutex<State>,
    /// Changes when there may be something to do for workers.
    version: watch::Sender<()>,
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
        Self {
            book,
            striper,
            shelf,
            budget: Arc::new(Budget::new(memory)),
            state: Mutex::new(State::new()),
            version: watch::Sender::new(()),
        }
    }

    /// Tells whether there may be more to do.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.version.subscribe()
    }

    pub(super) fn wake(&self) {
        self.version.send_modify(|()| {});
    }

    /// The caller has asked what this path is, so it will fetch it, unless it has already.
    pub(super) fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        let mut state = self.state.lock();
        let path = &info.path;
        // Without size and hash it can be neither planned nor verified.
        let unsuitable = info.nar_size == 0
            || info.nar_hash.is_none()
            || room_for(info.nar_size) > self.budget.largest();
        let fetched = state.fetched.get(path);
        let known = state.jobs.contains_key(path) || fetched.is_some_and(|at| at.elapsed() < ANEW);
        if unsuitable || known || state.order.len() >= EXPECTED {
            return;
        }
        if state.expect(info, holders, false) {
            drop(state);
            self.wake();
        }
    }

    /// The caller begins anew: what it has fetched it may fetch again.
    pub(super) fn begin_anew(&self) {
        self.state.lock().fetched.clear();
    }

    /// Drops what was read ahead for a caller that has not fetched anything for long. It is expected
    /// as before, and read ahead again once the caller goes on.
    pub(super) fn rest_if_idle(&self) {
        let mut state = self.state.lock();
        if state.latest.elapsed() < IDLE {
            return;
        }
        state.idle = true;
        let (complete, others) = std::mem::take(&mut state.jobs)
            .into_iter()
            .partition(|(_, entry)| entry.reader.job.is_complete());
        state.jobs = others;
        for Entry { reader, .. } in BTreeMap::into_values(complete) {
            state.expect(&reader.job.info, &reader.job.holders, false);
        }
    }

    /// The caller fetches `path` now: what is being read ahead of it, if it is.
    pub(super) fn fetch(&self, info: &PathInfo) -> Option<Reader> {
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
        let reader = state.jobs.remove(path).map(|entry| entry.reader);
        if reader.as_ref().is_some_and(Reader::is_lost) {
            // The caller whose worker was to bring it is gone, with all that this one read along.
            state.expect_lost_again();
        }
        if reader.is_none() && self.budget.is_nearly_full() {
            state.drop_stale();
        }
        drop(state);
        self.wake();
        let same = |reader: &Reader| {
            let theirs = &reader.job.info;
            (theirs.nar_hash, theirs.nar_size) == (info.nar_hash, info.nar_size)
        };
        // What is read at once needs no room ahead, but is accounted for.
        let reserve = || Some(self.budget.reserve_anyway(room_for(info.nar_size)));
        let join = || self.shelf.join(info, reserve);
        let reader = reader.filter(same).filter(Reader::want).or_else(join);
        reader.filter(Reader::want)
    }

    /// What another caller reads ahead, if it is the same and there is room for it here too.
    fn join(&self, info: &PathInfo) -> Option<Reader> {
        let room = room_for(info.nar_size);
        self.shelf.join(info, || self.budget.reserve(room))
    }

    /// How many bytes could be read ahead from this host next, as far as one looks.
    pub(super) fn waiting_for(&self, host: HostId) -> u64 {
        let state = self.state.lock();
        let ready = state.order.ready().take(LOOK);
        let urgent = state.urgent_for(host);
        ready
            .filter_map(|path| state.expected.get(path))
            .filter(|expected| !expected.failed && expected.holders(&self.book).contains(&host))
            .map(|expected| expected.info.nar_size)
            .fold(urgent, u64::saturating_add)
    }

    /// A worker for `host` starts, unless there are `limit` of them.
    pub(super) fn enlist(&self, host: HostId, limit: usize) -> bool {
        let mut state = self.state.lock();
        let count = state.workers.entry(host).or_default();
        let room = *count < limit;
        *count += usize::from(room);
        room
    }

    pub(super) fn dismiss(&self, host: HostId) {
        if let Some(count) = self.state.lock().workers.get_mut(&host) {
            *count -= 1;
        }
    }

    /// The next NAR for a worker of `host` that has asked for `nars` NARs of `bytes` bytes which
    /// have not come yet.
    pub(super) fn pick(self: &Arc<Self>, host: HostId, nars: usize, bytes: u64) -> Option<Taken> {
        let mut state = self.state.lock();
        let fits = |size: u64| nars == 0 || (nars < PIPELINE_NARS && bytes + size <= PIPELINE);
        while let Some(urgent) = state.next_urgent(host, fits) {
            drop(state);
            let taken = self.taken(host, urgent);
            if !self.book.is_spoilt(host, &taken.job.info.path) {
                return Some(taken);
            }
            // Found out since it was decided: who waits for it has to ask others.
            taken.fail(false);
            state = self.state.lock();
        }
        if state.idle {
            return None;
        }
        let token = self.shelf.new_token();
        let job = loop {
            let next = state.next_for(host, &self.book, &self.striper).cloned();
            match next {
                Some(path) => {
                    let info = &state.expected.get(&path)?.info;
                    if let Some(reader) = self.join(info) {
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
        Some(self.taken(host, (token, job)))
    }

    fn taken(self: &Arc<Self>, host: HostId, (token, job): (Token, Arc<Job>)) -> Taken {
        Taken {
            owed: Some(self.book.rates.ask(host, job.info.nar_size)),
            job,
            token,
            desk: self.clone(),
            done: false,
        }
    }

    /// The next NAR that should come in parts.
    pub(super) fn pick_large(self: &Arc<Self>) -> Option<Taken> {
        let mut state = self.state.lock();
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
        if let Some(reader) = self.join(&state.expected.get(&path)?.info) {
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
        let mut state = self.desk.state.lock();
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
