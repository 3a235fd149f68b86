//! One NAR that comes in chunks: which hosts it may come from, and what has come.

mod compare;

pub(in crate::transfer) use compare::contents_digest;

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::disputes::Disputes;
use super::window::{ChannelId, ChunkWindow};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::wire::nar::layout::{Layout, Segment};

/// The rank of a NAR among those that come in chunks; the smallest comes first.
pub(in crate::transfer) type Priority = Arc<AtomicU64>;

/// The rank of a NAR that a caller waits for.
pub(in crate::transfer) const URGENT: u64 = 0;

/// How long a host whose channels all failed is not asked for this NAR; doubled with each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest such pause, as a power of two of the first.
const PAUSE_DOUBLINGS: u32 = 5;

/// How many chunks come uncompressed after one that compression did not make smaller, before it is tried again.
const RAW_CHUNKS: u32 = 16;

pub(super) struct ChunkedNar {
    pub(super) info: Arc<PathInfo>,
    /// It is in chunks only because its one host may be far away.
    pub(super) only_if_far: bool,
    /// Its hosts are asked although they rest after a failure.
    pub(super) ignore_backoff: bool,
    priority: Priority,
    /// Its bytes come from a plain dump: hosts only compare them.
    only_compare: bool,
    began: Instant,
    /// Bytes that have come of it from any host.
    received: Arc<AtomicU64>,
    state: Mutex<NarState>,
    /// Wakes whoever takes the chunks.
    arrived: Notify,
}

struct NarState {
    chunks: ChunkWindow,
    /// The hosts that may be asked.
    hosts: Vec<HostId>,
    file_indexes: BTreeMap<HostId, FileIndex>,
    /// Hosts whose channels all failed: how often in a row, and until when none is opened there.
    failed: BTreeMap<HostId, (u32, Instant)>,
    /// How many chunks have come, and how many had when all hosts had failed last.
    arrivals: u64,
    arrivals_at_failure: Option<u64>,
    /// It does not get smaller: so many chunks come as they are before it is tried again.
    raw_chunks: Option<u32>,
    /// Hosts that cannot, or are too slow to, compare what others sent.
    no_comparing: BTreeSet<HostId>,
    disputes: Disputes,
}

enum FileIndex {
    /// A channel reads it.
    Asked,
    Known(Layout),
    /// This host is of no use for this NAR.
    Excluded,
}

/// What a host can be asked next for a NAR.
pub(super) enum NextRequest {
    Chunk(u64, Segment),
    /// The files have to be indexed first.
    NeedsIndex,
    Nothing,
}

impl ChunkedNar {
    /// A NAR that is wanted from the byte `from` on, from these hosts.
    pub(super) fn new(
        info: Arc<PathInfo>,
        hosts: Vec<HostId>,
        from: u64,
        priority: Priority,
    ) -> Self {
        let chunks = ChunkWindow::new(from..info.nar_size);
        Self {
            info,
            only_if_far: false,
            ignore_backoff: false,
            priority,
            only_compare: false,
            began: Instant::now(),
            received: Arc::default(),
            state: Mutex::new(NarState {
                chunks,
                hosts,
                file_indexes: BTreeMap::new(),
                failed: BTreeMap::new(),
                arrivals: 0,
                arrivals_at_failure: None,
                raw_chunks: None,
                no_comparing: BTreeSet::new(),
                disputes: Disputes::default(),
            }),
            arrived: Notify::new(),
        }
    }

    /// A NAR that comes by a plain dump, for these hosts to compare.
    pub(super) fn to_compare(info: Arc<PathInfo>, hosts: Vec<HostId>, from: u64) -> Self {
        Self {
            only_compare: true,
            ..Self::new(info, hosts, from, Arc::new(AtomicU64::new(URGENT)))
        }
    }

    /// Whether its hosts only compare what comes from elsewhere.
    pub(super) fn is_only_compared(&self) -> bool {
        self.only_compare
    }

    /// Number and length of the next chunk of the plain dump; `None` while no more can be held, or when that is all.
    pub(super) fn next_supply(&self, sender: ChannelId) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let chunk = state.chunks.next(sender, true, Instant::now())?;
        let (_, len) = state.chunks.range(chunk);
        Some((chunk, len))
    }

    pub(super) fn priority(&self) -> u64 {
        self.priority.load(Ordering::Relaxed)
    }

    /// Whether the next chunk may be worth compressing, by what came of the last ones. Of many that are requested at the
    /// same time, few try it again.
    pub(super) fn may_be_compressible(&self) -> bool {
        let mut state = self.state.lock();
        let Some(raw_chunks) = &mut state.raw_chunks else {
            return true;
        };
        match raw_chunks.checked_sub(1) {
            Some(less) => {
                *raw_chunks = less;
                false
            }
            None => {
                *raw_chunks = RAW_CHUNKS;
                true
            }
        }
    }

    /// A compressed chunk has come. Whether that made it smaller.
    pub(super) fn set_compressible(&self, is_smaller: bool) {
        let mut state = self.state.lock();
        state.raw_chunks = match is_smaller {
            true => None,
            false => Some(RAW_CHUNKS),
        };
    }

    /// Counts the bytes that come, whole chunks or not.
    pub(super) fn received(&self) -> &Arc<AtomicU64> {
        &self.received
    }

    /// What that channel of that host should request. `is_worth` says whether the host would not be the last to be done,
    /// given how many bytes are not requested from anybody, and which other hosts can bring them.
    pub(super) fn next(
        &self,
        host: HostId,
        channel: ChannelId,
        is_worth: impl FnOnce(u64, &[HostId]) -> bool,
    ) -> NextRequest {
        let mut state = self.state.lock();
        let NarState {
            chunks,
            hosts,
            file_indexes,
            failed,
            ..
        } = &mut *state;
        if !hosts.contains(&host) {
            return NextRequest::Nothing;
        }
        match file_indexes.get(&host) {
            Some(FileIndex::Known(_)) if self.only_compare => NextRequest::Nothing,
            Some(FileIndex::Known(layout)) => {
                let unasked = chunks.unasked();
                let may_add = unasked > 0 && {
                    let set_file_index = file_indexes.iter();
                    let others = set_file_index.filter_map(|(other, file_index)| {
                        // One that fails again and again must not keep the others from bringing it.
                        let can = matches!(file_index, FileIndex::Known(_))
                            && *other != host
                            && !failed.contains_key(other);
                        can.then_some(*other)
                    });
                    is_worth(unasked, &others.collect::<Vec<_>>())
                };
                match chunks.next(channel, may_add, Instant::now()) {
                    Some(chunk) => {
                        let (start, len) = chunks.range(chunk);
                        NextRequest::Chunk(chunk, layout.segment(start, len))
                    }
                    None => NextRequest::Nothing,
                }
            }
            None if chunks.is_missing_some() || chunks.has_check_for(host) => {
                NextRequest::NeedsIndex
            }
            _ => NextRequest::Nothing,
        }
    }

    pub(super) fn hosts(&self) -> Vec<HostId> {
        self.state.lock().hosts.clone()
    }

    /// Adds hosts. Gives those that are new.
    pub(super) fn add_hosts(&self, mut hosts: Vec<HostId>) -> Vec<HostId> {
        let mut state = self.state.lock();
        hosts.retain(|host| !state.hosts.contains(host));
        state.hosts.extend(&hosts);
        hosts
    }

    /// Whether a channel should index it on that host: none has yet.
    pub(super) fn start_indexing(&self, host: HostId) -> bool {
        let mut state = self.state.lock();
        let free = !state.file_indexes.contains_key(&host);
        if free {
            state.file_indexes.insert(host, FileIndex::Asked);
        }
        free
    }

    /// Sets the file index that a host gave. Whether it can be read in chunks there.
    pub(super) fn set_file_index(&self, host: HostId, layout: Option<Layout>) -> bool {
        let fits = layout.filter(|layout| layout.nar_size() == self.info.nar_size);
        let can_be_read = fits.is_some();
        let file_index = fits.map_or(FileIndex::Excluded, FileIndex::Known);
        self.state.lock().file_indexes.insert(host, file_index);
        self.arrived.notify_one();
        can_be_read
    }

    /// Records that a host is of no use for this NAR.
    pub(super) fn exclude(&self, host: HostId) {
        let mut state = self.state.lock();
        state.file_indexes.insert(host, FileIndex::Excluded);
        drop(state);
        self.arrived.notify_one();
    }

    /// So many bytes of a chunk have come by now, `more` of them since the last call.
    pub(super) fn progressed(&self, chunk: u64, channel: ChannelId, received: u64, more: u64) {
        self.received.fetch_add(more, Ordering::Relaxed);
        self.state
            .lock()
            .chunks
            .progressed(chunk, channel, received);
    }

    pub(super) fn arrived(&self, chunk: u64, bytes: Bytes, channel: ChannelId) {
        let mut state = self.state.lock();
        state.chunks.arrived(chunk, bytes, channel, Instant::now());
        state.failed.remove(&channel.host);
        state.arrivals += 1;
        drop(state);
        self.arrived.notify_one();
    }

    /// A channel of that host has ended. `failed`: no channel to the host works.
    pub(super) fn channel_ended(&self, host: HostId, channel: ChannelId, failed: bool) {
        let mut state = self.state.lock();
        state.chunks.channel_ended(channel);
        state.disputes.channel_ended(channel);
        // It may have been the one that indexed.
        if matches!(state.file_indexes.get(&host), Some(FileIndex::Asked)) {
            state.file_indexes.remove(&host);
        }
        if failed {
            let now = Instant::now();
            let (times, until) = state.failed.entry(host).or_insert((0, now));
            *until = now + FIRST_PAUSE * (1 << (*times).min(PAUSE_DOUBLINGS));
            *times += 1;
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Whether that host was found to have something wrong, or nothing of use.
    pub(super) fn is_excluded(&self, host: HostId) -> bool {
        !self.may_come_from(host)
    }

    /// Whether that host may still bring a part of it.
    pub(super) fn may_come_from(&self, host: HostId) -> bool {
        !matches!(
            self.state.lock().file_indexes.get(&host),
            Some(FileIndex::Excluded)
        )
    }

    /// Hosts from which something could be requested now, if they had a channel.
    pub(super) fn could_ask(&self) -> Vec<HostId> {
        let state = self.state.lock();
        let now = Instant::now();
        let may = |host: &&HostId| {
            if !state.chunks.can_ask() && !state.chunks.has_check_for(**host) {
                return false;
            }
            let pauses = state.failed.get(*host);
            let unfit = matches!(state.file_indexes.get(*host), Some(FileIndex::Excluded));
            !unfit && pauses.is_none_or(|(_, until)| *until <= now)
        };
        state.hosts.iter().filter(may).copied().collect()
    }

    /// When to try again after all hosts have failed. `None` when no chunk has come since they failed last, or no host is
    /// left.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        if state.arrivals_at_failure.unwrap_or(0) == state.arrivals {
            return None;
        }
        let left = state.hosts.iter().filter(|host| {
            let file_index = state.file_indexes.get(host);
            !matches!(file_index, Some(FileIndex::Excluded))
        });
        let until = left.filter_map(|host| Some(state.failed.get(host)?.1));
        let until = until.min()?;
        state.arrivals_at_failure = Some(state.arrivals);
        Some(until)
    }

    /// Waits until something has changed.
    pub(super) async fn changed(&self) {
        self.arrived.notified().await;
    }
}
