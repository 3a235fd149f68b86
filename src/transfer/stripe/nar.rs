//! One NAR that comes in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::parts::{Channel, Parts};
use super::proof::{Proofs, Verdict};
use crate::model::{NarHash, PathInfo};
use crate::pool::HostId;
use crate::wire::nar::layout::{Layout, Piece, Segment};

/// Where a NAR comes in the order; the smallest is the most urgent.
pub(in crate::transfer) type Priority = Arc<AtomicU64>;

/// Of a NAR that somebody waits for.
pub(in crate::transfer) const URGENT: u64 = 0;

/// How long a host whose channels all failed is not asked for this NAR; doubled with each further time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// How long a part that has come is held back until another host has confirmed it. After that this is not
/// waited for any more.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// The longest such pause, as a power of two of the first.
const PAUSE_DOUBLINGS: u32 = 5;

pub(super) struct Nar {
    pub(super) info: Arc<PathInfo>,
    /// It is in parts only because its one host may be far away.
    pub(super) only_if_far: bool,
    /// Its hosts are asked although they rest.
    pub(super) nevertheless: bool,
    priority: Priority,
    /// Bytes that have come of it, from whomever.
    received: Arc<AtomicU64>,
    // Held for a few instructions, never over an await.
    state: Mutex<State>,
    /// For the one who takes the parts.
    arrived: Notify,
}

struct State {
    parts: Parts,
    /// Who may be asked.
    hosts: Vec<HostId>,
    listings: BTreeMap<HostId, Listing>,
    /// Hosts whose channels all failed: how often in a row, and until when none is opened there.
    failed: BTreeMap<HostId, (u32, Instant)>,
    /// Parts that have come, and how many had when all hosts had failed last.
    arrivals: u64,
    arrivals_at_failure: Option<u64>,
    /// Hosts that cannot, or are too slow to, compare what others sent.
    no_comparing: BTreeSet<HostId>,
    proofs: Proofs,
}

enum Listing {
    /// Somebody is at it.
    Asked,
    Known(Layout),
    /// This host is of no use for this NAR.
    Unfit,
}

/// What a host can be asked next for a NAR.
pub(super) enum Next {
    Part(u64, Segment),
    /// It has to be listed first.
    Unlisted,
    Nothing,
}

impl Nar {
    /// A NAR of which everything from the byte `from` on is wanted.
    pub(super) fn new(
        info: Arc<PathInfo>,
        hosts: Vec<HostId>,
        from: u64,
        only_if_far: bool,
        nevertheless: bool,
        priority: Priority,
    ) -> Self {
        let parts = Parts::new(from..info.nar_size);
        Self {
            info,
            only_if_far,
            nevertheless,
            priority,
            received: Arc::default(),
            state: Mutex::new(State {
                parts,
                hosts,
                listings: BTreeMap::new(),
                failed: BTreeMap::new(),
                arrivals: 0,
                arrivals_at_failure: None,
                no_comparing: BTreeSet::new(),
                proofs: Proofs::default(),
            }),
            arrived: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn priority(&self) -> u64 {
        self.priority.load(Ordering::Relaxed)
    }

    /// Counts the bytes that come, whole parts or not.
    pub(super) fn received(&self) -> &Arc<AtomicU64> {
        &self.received
    }

    /// What that channel of that host should ask for. `is_worth` tells whether the host would not be
    /// the last to be done, given how many bytes nobody was asked for yet, and who else can bring them.
    pub(super) fn next(
        &self,
        host: HostId,
        channel: Channel,
        is_worth: impl FnOnce(u64, &[HostId]) -> bool,
    ) -> Next {
        let mut state = self.lock();
        let State {
            parts,
            hosts,
            listings,
            ..
        } = &mut *state;
        if !hosts.contains(&host) {
            return Next::Nothing;
        }
        match listings.get(&host) {
            Some(Listing::Known(layout)) => {
                let unasked = parts.unasked();
                let may_add = unasked > 0 && {
                    let listed = listings.iter();
                    let others = listed.filter_map(|(other, listing)| {
                        let can = matches!(listing, Listing::Known(_)) && *other != host;
                        can.then_some(*other)
                    });
                    is_worth(unasked, &others.collect::<Vec<_>>())
                };
                match parts.next(channel, may_add, Instant::now()) {
                    Some(part) => {
                        let (start, len) = parts.range(part);
                        Next::Part(part, layout.segment(start, len))
                    }
                    None => Next::Nothing,
                }
            }
            None if parts.is_missing_some() => Next::Unlisted,
            _ => Next::Nothing,
        }
    }

    pub(super) fn hosts(&self) -> Vec<HostId> {
        self.lock().hosts.clone()
    }

    /// These may be asked too. Gives those that are new.
    pub(super) fn add_hosts(&self, mut hosts: Vec<HostId>) -> Vec<HostId> {
        let mut state = self.lock();
        hosts.retain(|host| !state.hosts.contains(host));
        state.hosts.extend(&hosts);
        hosts
    }

    /// A channel of that host goes to list it, unless another one has.
    pub(super) fn start_listing(&self, host: HostId) -> bool {
        let mut state = self.lock();
        let free = !state.listings.contains_key(&host);
        if free {
            state.listings.insert(host, Listing::Asked);
        }
        free
    }

    /// What came of it.
    pub(super) fn listed(&self, host: HostId, layout: Option<Layout>) {
        let fits = layout.filter(|layout| layout.nar_size() == self.info.nar_size);
        let listing = fits.map_or(Listing::Unfit, Listing::Known);
        self.lock().listings.insert(host, listing);
        self.arrived.notify_one();
    }

    /// So many bytes of a part have come by now, `more` of them since this was last told.
    pub(super) fn progressed(&self, part: u64, channel: Channel, received: u64, more: u64) {
        self.received.fetch_add(more, Ordering::Relaxed);
        self.lock().parts.progressed(part, channel, received);
    }

    pub(super) fn arrived(&self, part: u64, bytes: Bytes, channel: Channel) {
        let mut state = self.lock();
        state.parts.arrived(part, bytes, channel, Instant::now());
        state.arrivals += 1;
        drop(state);
        self.arrived.notify_one();
    }

    /// A channel of that host is gone. `failed`: it was the last one, and it did not leave of itself.
    pub(super) fn lost(&self, host: HostId, channel: Channel, failed: bool) {
        let mut state = self.lock();
        state.parts.lost(channel);
        state.proofs.lost(channel);
        // It may have been the one that was at it.
        if matches!(state.listings.get(&host), Some(Listing::Asked)) {
            state.listings.remove(&host);
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

    /// Whether that host may still bring something.
    pub(super) fn may_come_from(&self, host: HostId) -> bool {
        !matches!(self.lock().listings.get(&host), Some(Listing::Unfit))
    }

    /// Hosts that could be asked for something now, or could compare something, had they a channel.
    pub(super) fn could_ask(&self) -> Vec<HostId> {
        let state = self.lock();
        let now = Instant::now();
        let may = |host: &&HostId| {
            if !state.parts.can_ask() && !state.parts.has_check_for(**host) {
                return false;
            }
            let pauses = state.failed.get(*host);
            let unfit = matches!(state.listings.get(*host), Some(Listing::Unfit));
            !unfit && pauses.is_none_or(|(_, until)| *until <= now)
        };
        state.hosts.iter().filter(may).copied().collect()
    }

    /// When all hosts have failed: until when is to be waited before they are tried again. `None` when no
    /// part has come since that was the case before, or nobody is left: then it is over.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let mut state = self.lock();
        if state.arrivals_at_failure.unwrap_or(0) == state.arrivals {
            return None;
        }
        let left = state.hosts.iter().filter(|host| {
            let listing = state.listings.get(host);
            !matches!(listing, Some(Listing::Unfit))
        });
        let until = left.filter_map(|host| Some(state.failed.get(host)?.1));
        let until = until.min()?;
        state.arrivals_at_failure = Some(state.arrivals);
        Some(until)
    }

    /// The next part in order, if it has come and, where one of the hosts `at_work` can, another host than
    /// its sender has confirmed it; and whether that was all.
    pub(super) fn take(&self, at_work: &[HostId]) -> (Option<Bytes>, bool) {
        let mut state = self.lock();
        // Who has no channel any more cannot settle anything.
        for host in state.proofs.concerned() {
            if !at_work.contains(&host) {
                state.proofs.give_up(host);
            }
        }
        state.settle();
        let State {
            parts,
            listings,
            no_comparing,
            ..
        } = &mut *state;
        let mut slow = false;
        let can_compare = |host: &HostId| {
            let unfit = matches!(listings.get(host), Some(Listing::Unfit));
            !unfit && !no_comparing.contains(host)
        };
        let others: Vec<_> = at_work.iter().filter(|host| can_compare(host)).collect();
        let now = Instant::now();
        let part = parts.take(|sender, came| {
            let waits = others.iter().any(|other| **other != sender);
            slow = waits && now.saturating_duration_since(came) >= CONFIRM_LIMIT;
            waits && !slow
        });
        if slow {
            log::debug!("{}: other hosts are slow to confirm it", self.info.path);
            no_comparing.extend(at_work);
            parts.stop_comparing();
        }
        (part, parts.is_done())
    }

    /// Whether the next part in order has come and only waits for being confirmed.
    pub(super) fn waits_for_check(&self) -> bool {
        self.lock().parts.is_next_unconfirmed()
    }

    /// The part that this channel should compare with what its host has.
    pub(super) fn next_check(&self, channel: Channel) -> Option<(u64, Segment)> {
        let mut state = self.lock();
        if state.no_comparing.contains(&channel.host) {
            return None;
        }
        let Some(Listing::Known(layout)) = state.listings.get(&channel.host) else {
            return None;
        };
        let layout = layout.clone();
        let part = state.parts.next_check(channel)?;
        let (start, len) = state.parts.range(part);
        Some((part, layout.segment(start, len)))
    }

    /// Whether this channel should ask for the digest of the whole NAR, to settle a dispute.
    pub(super) fn next_proof(&self, channel: Channel) -> Option<Segment> {
        let mut state = self.lock();
        let Some(Listing::Known(layout)) = state.listings.get(&channel.host) else {
            return None;
        };
        let all = layout.segment(0, self.info.nar_size);
        state.proofs.ask(channel).then_some(all)
    }

    /// What the files of that channel's host come to in place of a part that another one sent; `None` when
    /// it cannot tell.
    pub(super) fn compared(&self, part: u64, channel: Channel, digest: Option<[u8; 32]>) {
        let (bytes, sender, segment) = {
            let state = self.lock();
            let Some((bytes, sender)) = state.parts.to_compare(part, channel) else {
                return;
            };
            let Some(Listing::Known(layout)) = state.listings.get(&channel.host) else {
                return;
            };
            let (start, len) = state.parts.range(part);
            (bytes, sender, layout.segment(start, len))
        };
        // Outside the lock: it takes some milliseconds.
        let agreed = digest.map(|digest| contents_digest(&segment, &bytes) == Some(digest));
        let mut state = self.lock();
        state.parts.compared(part, channel, agreed);
        match agreed {
            Some(true) => {}
            Some(false) => state.proofs.dispute([sender, channel.host]),
            None => {
                state.no_comparing.insert(channel.host);
            }
        }
        state.settle();
        drop(state);
        self.arrived.notify_one();
    }

    /// What that host has all in all; `None` when it cannot tell. Gives what it has, if that is wrong.
    pub(super) fn proved(&self, host: HostId, digest: Option<[u8; 32]>) -> Option<NarHash> {
        let expected = self.info.nar_hash?;
        let got = digest.map(NarHash::new);
        let mut state = self.lock();
        state.proofs.told(host, got, expected);
        state.settle();
        drop(state);
        self.arrived.notify_one();
        got.filter(|got| *got != expected)
    }

    /// Waits for news.
    pub(super) async fn changed(&self) {
        self.arrived.notified().await;
    }
}

impl State {
    /// Ends a dispute, if its end is known.
    fn settle(&mut self) {
        match self.proofs.verdict() {
            Some(Verdict::Wrong(hosts)) => {
                self.parts.settle(&hosts);
                for host in hosts {
                    self.listings.insert(host, Listing::Unfit);
                }
            }
            Some(Verdict::Unknown) => {
                self.no_comparing.extend(self.hosts.iter().copied());
                self.parts.stop_comparing();
            }
            None => {}
        }
    }
}

/// The SHA-256 of what in `bytes` comes from files, if the framing between is that of `segment`.
fn contents_digest(segment: &Segment, mut bytes: &[u8]) -> Option<[u8; 32]> {
    let mut hasher = Sha256::new();
    for piece in segment.pieces() {
        match piece {
            Piece::Framing(framing) => bytes = bytes.strip_prefix(&framing[..])?,
            Piece::Contents(range) => {
                let (contents, rest) = bytes.split_at_checked(usize::try_from(range.len).ok()?)?;
                hasher.update(contents);
                bytes = rest;
            }
        }
    }
    bytes.is_empty().then(|| hasher.finalize().into())
}
