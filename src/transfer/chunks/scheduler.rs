//! What each channel does next: all NARs that come in chunks, and the channels of each host.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use super::chunked_nar::{ChunkedNar, NextRequest};
use super::window::{CHUNK_SIZE, ChannelId};
use crate::config::host::CompressionMode;
use crate::model::{NarHash, PathInfo, StorePath};
use crate::pool::HostId;
use crate::remote::SLOW;
use crate::transfer::error::{HostFault, PathFault};
use crate::transfer::hosts::HostBookkeeping;
use crate::watch;
use crate::wire::nar::layout::{Layout, Segment};

/// Channels of a host that are kept free for small NARs.
const RESERVED_CHANNELS: usize = 2;

/// How many seconds of work, besides two round trips, a host may have outstanding. With more, everything else on the same
/// link would wait.
const MAX_BACKLOG_SECS: f64 = 0.3;

/// Average file size, in bytes, below which only [`VERY_FAR`] hosts are asked for chunks through shells: reading many small
/// files so takes a host several times as long as to dump them.
const SMALL_FILES: u64 = 16 << 10;

/// A round trip at which the window of one channel limits even such NARs.
const VERY_FAR: Duration = Duration::from_millis(50);

/// A round trip from which on several channels to one host are faster than one: below it, the
/// window of one lets 200 MB/s through.
pub(in crate::transfer) const FAR: Duration = Duration::from_millis(10);

/// Decides what each channel does next, for all NARs.
pub(super) struct Scheduler {
    pub(super) bookkeeping: Arc<HostBookkeeping>,
    state: Mutex<SchedulerState>,
    tasks: Mutex<JoinSet<()>>,
    /// Changes when there may be work for a channel that had none.
    work_version: watch::Sender<()>,
}

#[derive(Default)]
struct SchedulerState {
    /// NARs that are wanted.
    active: Vec<Arc<ChunkedNar>>,
    hosts: BTreeMap<HostId, HostChannels>,
    channels: u64,
}

#[derive(Default)]
struct HostChannels {
    count: usize,
    /// The channel that indexes a NAR, or receives what it has requested before it does.
    indexer: Option<ChannelId>,
}

/// What a channel does next.
pub(super) enum NextAction {
    Chunk(Arc<ChunkedNar>, u64, Segment),
    /// Compare a chunk that another host sent.
    Compare(Arc<ChunkedNar>, u64, Segment),
    /// Get the digest of the whole NAR as the host has it.
    Prove(Arc<ChunkedNar>, Segment),
    Index(Arc<ChunkedNar>),
    None,
}

impl Scheduler {
    pub(super) fn new(bookkeeping: Arc<HostBookkeeping>) -> Self {
        Self {
            bookkeeping,
            state: Mutex::default(),
            tasks: Mutex::default(),
            work_version: watch::Sender::new(()),
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.work_version.subscribe()
    }

    pub(super) fn wake(&self) {
        self.work_version.send_modify(|()| {});
    }

    pub(super) fn end(&self) {
        self.tasks.lock().abort_all();
    }

    /// Those of `holders` that may be asked for chunks of a path now.
    pub(super) fn usable(&self, path: &StorePath, holders: &[HostId]) -> Vec<HostId> {
        let usable = |host: &HostId| {
            self.bookkeeping.pool.is_healthy(*host) && self.may_bring_chunks(*host, path)
        };
        holders.iter().copied().filter(usable).collect()
    }

    pub(super) fn may_bring_chunks(&self, host: HostId, path: &StorePath) -> bool {
        self.bookkeeping.pool.may_have_shell(host)
            && !self.bookkeeping.sent_wrong_content(host, path)
    }

    /// Whether the host is far away; `None` as long as its latency is not known.
    pub(super) fn is_far(&self, host: HostId) -> Option<bool> {
        Some(self.bookkeeping.pool.latency(host)? >= FAR)
    }

    /// Whether a near host is worth the round trips of shells all the same: it may compress, and its link is slow or its
    /// user wants that.
    pub(super) fn is_slow(&self, host: HostId) -> bool {
        let bookkeeping = &self.bookkeeping;
        let always = bookkeeping.pool.host(host).compression.mode == CompressionMode::Zstd;
        let rate = bookkeeping.throughput.of(host);
        (always || rate.is_some_and(|rate| rate < SLOW)) && bookkeeping.pool.may_compress(host)
    }

    /// Whether some NAR has something to request from that host.
    pub(super) fn has_work_for(&self, host: HostId) -> bool {
        let active = self.state.lock().active.clone();
        active.iter().any(|nar| nar.could_ask().contains(&host))
    }

    pub(super) fn has_channels(&self, host: HostId) -> bool {
        let state = self.state.lock();
        state.hosts.get(&host).is_some_and(|work| work.count > 0)
    }

    /// Adds a NAR that is wanted.
    pub(super) fn add(&self, nar: &Arc<ChunkedNar>) {
        let mut state = self.state.lock();
        state.active.push(nar.clone());
        state.active.sort_by_key(|nar| nar.priority());
    }

    pub(super) fn remove(&self, nar: &Arc<ChunkedNar>) {
        self.state
            .lock()
            .active
            .retain(|other| !Arc::ptr_eq(other, nar));
    }

    /// Registers one more channel to a host; `None` when it has enough of them.
    pub(super) fn register_channel(&self, host: HostId) -> Option<ChannelId> {
        let limit = match self.is_far(host) {
            Some(true) => self.bookkeeping.pool.background_limit(host),
            _ => 1,
        };
        let wanted = limit.saturating_sub(RESERVED_CHANNELS).max(1);
        let mut state = self.state.lock();
        let channels = state.hosts.entry(host).or_default();
        if channels.count >= wanted {
            return None;
        }
        channels.count += 1;
        state.channels += 1;
        let number = state.channels;
        Some(ChannelId { host, number })
    }

    /// Runs a channel until it ends, or this is dropped.
    pub(super) fn spawn(&self, channel: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(channel);
    }

    /// Removes a channel that has ended, by itself or because it `failed`. A failure counts against the host when it was
    /// the last channel, or when the channel was `useless`, since new ones would be useless too.
    pub(super) fn release(&self, host: HostId, channel: ChannelId, failed: bool, useless: bool) {
        let (active, last) = {
            let mut state = self.state.lock();
            let with_channels = state.hosts.entry(host).or_default();
            with_channels.count = with_channels.count.saturating_sub(1);
            if with_channels.indexer == Some(channel) {
                with_channels.indexer = None;
            }
            let last = with_channels.count == 0;
            (state.active.clone(), last)
        };
        for nar in active {
            nar.channel_ended(host, channel, failed && (last || useless));
        }
        self.wake();
    }

    /// Records that a host has another content than the promised one.
    pub(super) async fn record_mismatch(&self, host: HostId, info: &PathInfo, got: NarHash) {
        let text = |hash: NarHash| format!("{hash} ({} bytes)", info.nar_size);
        let expected = info.nar_hash.map(text).unwrap_or_default();
        let fault = HostFault::Path {
            host: self.bookkeeping.pool.host(host).to_string(),
            path: info.path.clone(),
            fault: PathFault::Mismatch(expected, text(got)),
        };
        self.bookkeeping
            .record_failure(host, &info.path, &fault)
            .await;
    }

    fn is_busy(&self, host: HostId) -> bool {
        let latency = self.bookkeeping.pool.latency(host).unwrap_or_default();
        self.bookkeeping.throughput.backlog_secs(host)
            > 2.0 * latency.as_secs_f64() + MAX_BACKLOG_SECS
    }

    /// Whether to request one more chunk of a path from this host, with so many bytes not requested from any host. It is
    /// not worth it when the others will have brought all of them long before.
    fn is_worth_asking(
        &self,
        host: HostId,
        path: &StorePath,
        bytes: u64,
        others: &[HostId],
    ) -> bool {
        // What is left to a host that brings nothing any more would never come.
        let others = self.usable(path, others);
        let chunk = bytes.min(CHUNK_SIZE);
        !self
            .bookkeeping
            .throughput
            .would_be_last(host, chunk, bytes, &others)
    }

    /// The level at which a host that has `zstd` is to compress the next `len` bytes of a NAR; `None` for not at all.
    pub(super) fn compression_level(&self, host: HostId, nar: &ChunkedNar, len: u64) -> Option<u8> {
        let bookkeeping = &self.bookkeeping;
        let compression = bookkeeping.pool.host(host).compression;
        let is_far = self.is_far(host) == Some(true);
        let rate = bookkeeping.throughput.of(host);
        let choices = &bookkeeping.compression;
        let compress =
            nar.may_be_compressible() && choices.choose(host, compression.mode, len, is_far, rate);
        compress.then_some(compression.level)
    }

    /// What a channel does next. Only one that is `free`, with nothing outstanding, can index.
    pub(super) fn next_action(&self, host: HostId, channel: ChannelId, free: bool) -> NextAction {
        let mut state = self.state.lock();
        // A caller may wait for one of them by now.
        state.active.sort_by_key(|nar| nar.priority());
        let active = state.active.clone();
        // What other hosts have sent is held back until it is confirmed. A digest puts next to nothing on the link.
        for nar in &active {
            if let Some(all) = nar.next_proof(channel) {
                return NextAction::Prove(nar.clone(), all);
            }
            if let Some((chunk, segment)) = nar.next_check(channel) {
                return NextAction::Compare(nar.clone(), chunk, segment);
            }
        }
        // Only one chunk is requested from a host of unknown throughput. Over a slow link, one for each channel would
        // take so long that others bring them sooner, and what it sends is thrown away.
        if self.is_busy(host) || self.bookkeeping.throughput.is_being_measured(host) {
            return NextAction::None;
        }
        for nar in active {
            let is_worth_asking = |bytes: u64, others: &[HostId]| {
                self.is_worth_asking(host, &nar.info.path, bytes, others)
            };
            match nar.next(host, channel, is_worth_asking) {
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

    /// Sets the file index of a NAR on a host, where it can be read in chunks there, with whether the host reads small files
    /// well. `took` is how long indexing took.
    pub(super) fn set_file_index(
        &self,
        host: HostId,
        nar: &ChunkedNar,
        index: Option<(Layout, bool)>,
        took: Duration,
    ) {
        if let Some(with_channels) = self.state.lock().hosts.get_mut(&host) {
            with_channels.indexer = None;
        }
        let round_trip = self.bookkeeping.pool.latency(host).unwrap_or(took);
        let suits = |(layout, reads_well): &(Layout, bool)| {
            let files = (layout.entries() as u64).max(1);
            let small = layout.nar_size() / files < SMALL_FILES && !reads_well;
            let is_slow = self.is_slow(host);
            let far_enough = round_trip >= FAR || !nar.only_if_far || is_slow;
            nar.is_only_compared() || (far_enough && (!small || round_trip >= VERY_FAR || is_slow))
        };
        let layout = index.filter(suits).map(|(layout, _)| layout);
        if !nar.set_file_index(host, layout) {
            let (name, path) = (self.bookkeeping.pool.host(host), &nar.info.path);
            log::debug!("{name}: {path} is not read in chunks there");
        }
        self.wake();
    }

    /// Those of `hosts` that have channels.
    pub(super) fn with_channels(&self, mut hosts: Vec<HostId>) -> Vec<HostId> {
        hosts.retain(|host| self.has_channels(*host));
        hosts
    }

    /// How many bytes have come of all NARs that are wanted now.
    pub(super) fn received(&self) -> u64 {
        let state = self.state.lock();
        let received = |nar: &Arc<ChunkedNar>| nar.received().load(Ordering::Relaxed);
        state.active.iter().map(received).sum()
    }

    /// Whether some host may still bring a part of it.
    pub(super) fn can_bring(&self, nar: &ChunkedNar) -> bool {
        let mut hosts = self.with_channels(nar.hosts()).into_iter();
        hosts.any(|host| nar.may_come_from(host))
    }
}

#[cfg(test)]
mod tests;
