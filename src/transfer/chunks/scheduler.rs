//! What channels, and those for whom they work, share.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::task::JoinSet;

use super::FAR;
use super::channel::{ChannelGuard, run};
use super::chunked_nar::{ChunkedNar, NextRequest};
use super::window::{CHUNK_SIZE, ChannelId};
use crate::model::{NarHash, PathInfo, StorePath};
use crate::pool::HostId;
use crate::transfer::error::HostFault;
use crate::transfer::hosts::HostBookkeeping;
use crate::watch;
use crate::wire::nar::layout::{Layout, Segment};

/// Channels of a host that are left for small NARs.
const LEFT: usize = 2;

/// How many seconds a host may take for what it has been asked for, besides two round trips: more
/// would make everything else on the same link wait.
const QUEUE: f64 = 0.3;

/// Reading many small files in chunks takes a host several times as long as to dump them: below
/// this size of a file on average, in bytes, only [`VERY_FAR`] hosts are asked for chunks.
const SMALL_FILES: u64 = 16 << 10;

/// A round trip with which the window of one channel is narrower than that.
const VERY_FAR: Duration = Duration::from_millis(50);

pub(super) struct Scheduler {
    pub(super) book: Arc<HostBookkeeping>,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
    /// Changes when there may be work for a channel that had none.
    version: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// NARs that are wanted.
    active: Vec<Arc<ChunkedNar>>,
    hosts: BTreeMap<HostId, HostChannels>,
    channels: u64,
}

#[derive(Default)]
struct HostChannels {
    count: usize,
    /// The one that reads out what it is owed, to list another NAR.
    indexer: Option<ChannelId>,
}

/// What a channel can do.
pub(super) enum NextAction {
    Chunk(Arc<ChunkedNar>, u64, Segment),
    /// Compare a chunk that another host sent.
    Compare(Arc<ChunkedNar>, u64, Segment),
    /// Tell what the host has all in all.
    Prove(Arc<ChunkedNar>, Segment),
    Index(Arc<ChunkedNar>),
    None,
}

impl Scheduler {
    pub(super) fn new(book: Arc<HostBookkeeping>) -> Self {
        Self {
            book,
            state: Mutex::default(),
            tasks: Mutex::default(),
            version: watch::Sender::new(()),
        }
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock()
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

    /// Those of `holders` that chunks of a path can be asked of.
    pub(super) fn usable(&self, path: &StorePath, holders: &[HostId]) -> Vec<HostId> {
        let usable =
            |host: &HostId| self.book.pool.is_well(*host) && self.may_bring_chunks(*host, path);
        holders.iter().copied().filter(usable).collect()
    }

    pub(super) fn may_bring_chunks(&self, host: HostId, path: &StorePath) -> bool {
        self.book.pool.may_have_shell(host) && !self.book.sent_wrong_content(host, path)
    }

    /// Is it certain that the host is so far away, or so near?
    pub(super) fn is_far(&self, host: HostId) -> Option<bool> {
        Some(self.book.pool.latency(host)? >= FAR)
    }

    /// Has this NAR brought.
    pub(super) fn add(self: &Arc<Self>, nar: &Arc<ChunkedNar>) {
        let mut state = self.state.lock();
        state.active.push(nar.clone());
        state.active.sort_by_key(|nar| nar.priority());
        drop(state);
        for host in nar.hosts() {
            self.spawn_channels(host, nar.ignore_backoff);
        }
        self.wake();
    }

    /// Channels release when there is nothing to ask for, be it that the caller is slow; and a host that
    /// failed may be back. Brings them back for a NAR of which something may be asked for now; with
    /// `ignore_backoff`, also those of hosts that rest after a failure.
    pub(super) fn reopen_channels(self: &Arc<Self>, nar: &ChunkedNar, ignore_backoff: bool) {
        for host in nar.could_ask() {
            let usable = ignore_backoff || self.book.pool.is_well(host);
            if usable && !self.has_channels(host) && self.may_bring_chunks(host, &nar.info.path) {
                self.spawn_channels(host, ignore_backoff);
            }
        }
    }

    /// Whether somebody could ask that host for something now.
    pub(super) fn is_of_use(&self, host: HostId) -> bool {
        let active = self.state.lock().active.clone();
        active.iter().any(|nar| nar.could_ask().contains(&host))
    }

    fn has_channels(&self, host: HostId) -> bool {
        let state = self.state.lock();
        state.hosts.get(&host).is_some_and(|work| work.count > 0)
    }

    /// More hosts turned out to have it.
    pub(super) fn add_hosts(self: &Arc<Self>, nar: &Arc<ChunkedNar>, hosts: Vec<HostId>) {
        for host in nar.add_hosts(hosts) {
            self.spawn_channels(host, false);
            self.wake();
        }
    }

    pub(super) fn remove(&self, nar: &Arc<ChunkedNar>) {
        self.state
            .lock()
            .active
            .retain(|other| !Arc::ptr_eq(other, nar));
    }

    /// Sets as many channels to work for a host as are of use.
    pub(super) fn spawn_channels(self: &Arc<Self>, host: HostId, ignore_backoff: bool) {
        let places = match self.is_far(host) {
            Some(true) => self.book.pool.background_limit(host),
            _ => 1,
        };
        let wanted = places.saturating_sub(LEFT).max(1);
        let mut state = self.state.lock();
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        while state.hosts.entry(host).or_default().count < wanted {
            state.hosts.entry(host).or_default().count += 1;
            state.channels += 1;
            let guard = ChannelGuard {
                scheduler: self.clone(),
                host,
                channel: ChannelId {
                    host,
                    number: state.channels,
                },
                ignore_backoff,
                idle: AtomicBool::new(false),
                useless: AtomicBool::new(false),
            };
            tasks.spawn(run(guard));
        }
    }

    /// A channel is gone, of itself or since it `failed`. As long as there are others, that does not mean that
    /// the host has failed, unless this one was `useless`: more of them would be so too.
    pub(super) fn release(&self, host: HostId, channel: ChannelId, failed: bool, useless: bool) {
        let (active, last) = {
            let mut state = self.state.lock();
            let at_work = state.hosts.entry(host).or_default();
            at_work.count = at_work.count.saturating_sub(1);
            if at_work.indexer == Some(channel) {
                at_work.indexer = None;
            }
            let last = at_work.count == 0;
            (state.active.clone(), last)
        };
        for nar in active {
            nar.lost(host, channel, failed && (last || useless));
        }
        self.wake();
    }

    /// A host was found to have something else than was promised.
    pub(super) async fn has_another(&self, host: HostId, info: &PathInfo, got: NarHash) {
        let text = |hash: NarHash| format!("{hash} ({} bytes)", info.nar_size);
        let fault = HostFault::Mismatch {
            host: self.book.pool.host(host).to_string(),
            path: info.path.clone(),
            expected: info.nar_hash.map(text).unwrap_or_default(),
            got: text(got),
        };
        self.book.record_failure(host, &info.path, &fault).await;
    }

    fn is_busy(&self, host: HostId) -> bool {
        let latency = self.book.pool.latency(host).unwrap_or_default();
        self.book.rates.queue(host) > 2.0 * latency.as_secs_f64() + QUEUE
    }

    /// Whether this host should be asked for one more chunk where nobody was asked yet for so many
    /// bytes: not when the others will have brought all of them long before it is done.
    fn is_worth(&self, host: HostId, bytes: u64, others: &[HostId]) -> bool {
        let mut others = others.to_vec();
        others.retain(|other| self.book.pool.is_well(*other));
        let chunk = bytes.min(CHUNK_SIZE);
        !self.book.rates.would_be_last(host, chunk, bytes, &others)
    }

    /// What a channel should do; one that is `free` owes nothing and can list.
    pub(super) fn next_action(&self, host: HostId, channel: ChannelId, free: bool) -> NextAction {
        let mut state = self.state.lock();
        // Somebody may have become urgent.
        state.active.sort_by_key(|nar| nar.priority());
        let active = state.active.clone();
        // What others have sent is held back until it is confirmed; that puts next to nothing on the link.
        for nar in &active {
            if let Some(all) = nar.next_proof(channel) {
                return NextAction::Prove(nar.clone(), all);
            }
            if let Some((chunk, segment)) = nar.next_check(channel) {
                return NextAction::Compare(nar.clone(), chunk, segment);
            }
        }
        // Of an unknown host one chunk is asked first: over a slow link, one for each channel would take so
        // long that others start_download them sooner, and what it sends is thrown away.
        if self.is_busy(host) || self.book.rates.is_being_measured(host) {
            return NextAction::None;
        }
        for nar in active {
            let is_worth = |bytes: u64, others: &[HostId]| self.is_worth(host, bytes, others);
            match nar.next(host, channel, is_worth) {
                NextRequest::Nothing => {}
                NextRequest::Chunk(chunk, segment) => {
                    return NextAction::Chunk(nar, chunk, segment);
                }
                NextRequest::NeedsIndex => {
                    let indexer = &mut state.hosts.entry(host).or_default().indexer;
                    if *indexer.get_or_insert(channel) != channel {
                        continue;
                    }
                    if !free {
                        return NextAction::None;
                    }
                    if nar.start_indexing(host) {
                        return NextAction::Index(nar);
                    }
                }
            }
        }
        NextAction::None
    }

    /// What came of file_index a NAR, and how long it took.
    pub(super) fn set_file_index(
        &self,
        host: HostId,
        nar: &ChunkedNar,
        layout: Option<Layout>,
        took: Duration,
    ) {
        if let Some(at_work) = self.state.lock().hosts.get_mut(&host) {
            at_work.indexer = None;
        }
        let round_trip = self.book.pool.latency(host).unwrap_or(took);
        let suits = |layout: &Layout| {
            let small = layout.nar_size() / (layout.entries() as u64).max(1) < SMALL_FILES;
            let far_enough = round_trip >= FAR || !nar.only_if_far;
            nar.is_only_compared() || (far_enough && (!small || round_trip >= VERY_FAR))
        };
        if !nar.set_file_index(host, layout.filter(suits)) {
            let (name, path) = (self.book.pool.host(host), &nar.info.path);
            log::debug!("{name}: {path} is not read in chunks there");
        }
        self.wake();
    }

    /// Those of `hosts` that have channels.
    pub(super) fn at_work(&self, mut hosts: Vec<HostId>) -> Vec<HostId> {
        hosts.retain(|host| self.has_channels(*host));
        hosts
    }

    /// Whether somebody may still start_download something of it.
    pub(super) fn can_bring(&self, nar: &ChunkedNar) -> bool {
        let mut hosts = self.at_work(nar.hosts()).into_iter();
        hosts.any(|host| nar.may_come_from(host))
    }
}
