//! What channels, and those for whom they work, share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::FAR;
use super::channel::{Seat, run};
use super::nar::{Nar, Next};
use super::parts::Channel;
use crate::model::StorePath;
use crate::pool::HostId;
use crate::transfer::book::Book;
use crate::watch;
use crate::wire::nar::layout::{Layout, Segment};

/// Channels of a host that are left for small NARs.
const LEFT: usize = 2;

/// How many seconds a host may take for what it has been asked for, besides two round trips: more
/// would make everything else on the same link wait.
const QUEUE: f64 = 0.3;

/// Reading many small files in parts takes a host several times as long as to dump them: below
/// this size of a file on average, in bytes, only [`VERY_FAR`] hosts are asked for parts.
const SMALL_FILES: u64 = 16 << 10;

/// A round trip with which the window of one channel is narrower than that.
const VERY_FAR: Duration = Duration::from_millis(50);

pub(super) struct Shared {
    pub(super) book: Arc<Book>,
    // Both held for a few instructions, never over an await.
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
    /// Changes when there may be work for a channel that had none.
    version: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// NARs that are wanted.
    active: Vec<Arc<Nar>>,
    hosts: HashMap<HostId, AtWork>,
    channels: u64,
}

#[derive(Default)]
struct AtWork {
    count: usize,
    /// The one that reads out what it is owed, to list another NAR.
    lister: Option<Channel>,
}

/// What a channel can do.
pub(super) enum Work {
    Part(Arc<Nar>, u64, Segment),
    List(Arc<Nar>),
    None,
}

impl Shared {
    pub(super) fn new(book: Arc<Book>) -> Self {
        Self {
            book,
            state: Mutex::default(),
            tasks: Mutex::default(),
            version: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.version.subscribe()
    }

    pub(super) fn wake(&self) {
        self.version.send_modify(|()| {});
    }

    pub(super) fn end(&self) {
        self.tasks().abort_all();
    }

    /// Those of `holders` that parts of a path can be asked of.
    pub(super) fn usable(&self, path: &StorePath, holders: &[HostId]) -> Vec<HostId> {
        let usable =
            |host: &HostId| self.book.pool.is_well(*host) && self.may_have_parts(*host, path);
        holders.iter().copied().filter(usable).collect()
    }

    pub(super) fn may_have_parts(&self, host: HostId, path: &StorePath) -> bool {
        self.book.pool.may_have_shell(host) && !self.book.is_spoilt(host, path)
    }

    /// Is it certain that the host is so far away, or so near?
    pub(super) fn is_far(&self, host: HostId) -> Option<bool> {
        Some(self.book.pool.latency(host)? >= FAR)
    }

    /// Has this NAR brought.
    pub(super) fn add(self: &Arc<Self>, nar: &Arc<Nar>, nevertheless: bool) {
        let mut state = self.lock();
        state.active.push(nar.clone());
        state.active.sort_by_key(|nar| nar.priority());
        drop(state);
        for host in nar.hosts() {
            self.engage(host, nevertheless);
        }
        self.wake();
    }

    /// More hosts turned out to have it.
    pub(super) fn add_hosts(self: &Arc<Self>, nar: &Arc<Nar>, hosts: Vec<HostId>) {
        for host in nar.add_hosts(hosts) {
            self.engage(host, false);
            self.wake();
        }
    }

    pub(super) fn remove(&self, nar: &Arc<Nar>) {
        self.lock().active.retain(|other| !Arc::ptr_eq(other, nar));
    }

    /// Sets as many channels to work for a host as are of use.
    pub(super) fn engage(self: &Arc<Self>, host: HostId, nevertheless: bool) {
        let places = match self.is_far(host) {
            Some(true) => self.book.pool.background_places(host),
            _ => 1,
        };
        let wanted = places.saturating_sub(LEFT).max(1);
        let mut state = self.lock();
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        while state.hosts.entry(host).or_default().count < wanted {
            state.hosts.entry(host).or_default().count += 1;
            state.channels += 1;
            let seat = Seat {
                shared: self.clone(),
                host,
                channel: Channel {
                    host,
                    number: state.channels,
                },
                nevertheless,
            };
            tasks.spawn(run(seat));
        }
    }

    /// A channel is gone.
    pub(super) fn leave(&self, host: HostId, channel: Channel) {
        let active = {
            let mut state = self.lock();
            let at_work = state.hosts.entry(host).or_default();
            at_work.count = at_work.count.saturating_sub(1);
            if at_work.lister == Some(channel) {
                at_work.lister = None;
            }
            state.active.clone()
        };
        for nar in active {
            nar.lost(host, channel);
        }
        self.wake();
    }

    fn is_busy(&self, host: HostId) -> bool {
        let latency = self.book.pool.latency(host).unwrap_or_default();
        self.book.rates.queue(host) > 2.0 * latency.as_secs_f64() + QUEUE
    }

    /// What a channel should do; one that is `free` owes nothing and can list.
    pub(super) fn work_for(&self, host: HostId, channel: Channel, free: bool) -> Work {
        if self.is_busy(host) {
            return Work::None;
        }
        let mut state = self.lock();
        // Somebody may have become urgent.
        state.active.sort_by_key(|nar| nar.priority());
        let active = state.active.clone();
        for nar in active {
            match nar.next(host, channel) {
                Next::Nothing => {}
                Next::Part(part, segment) => return Work::Part(nar, part, segment),
                Next::Unlisted => {
                    let lister = &mut state.hosts.entry(host).or_default().lister;
                    if *lister.get_or_insert(channel) != channel {
                        continue;
                    }
                    if !free {
                        return Work::None;
                    }
                    if nar.start_listing(host) {
                        return Work::List(nar);
                    }
                }
            }
        }
        Work::None
    }

    /// What came of listing a NAR, and how long it took.
    pub(super) fn listed(&self, host: HostId, nar: &Nar, layout: Option<Layout>, took: Duration) {
        if let Some(at_work) = self.lock().hosts.get_mut(&host) {
            at_work.lister = None;
        }
        let round_trip = self.book.pool.latency(host).unwrap_or(took);
        let suits = |layout: &Layout| {
            let small = layout.nar_size() / (layout.entries() as u64).max(1) < SMALL_FILES;
            (round_trip >= FAR || !nar.only_if_far) && (!small || round_trip >= VERY_FAR)
        };
        nar.listed(host, layout.filter(suits));
        self.wake();
    }

    /// Whether somebody may still bring something of it.
    pub(super) fn can_bring(&self, nar: &Nar) -> bool {
        let hosts = nar.hosts();
        let state = self.lock();
        let works = |host: &HostId| state.hosts.get(host).is_some_and(|work| work.count > 0);
        hosts
            .iter()
            .any(|host| works(host) && nar.may_come_from(*host))
    }
}
