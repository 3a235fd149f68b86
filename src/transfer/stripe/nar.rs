//! One NAR that comes in parts.

mod compare;

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::parts::{Channel, Parts};
use super::proof::Proofs;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::wire::nar::layout::{Layout, Segment};

/// Where a NAR comes in the order; the smallest is the most urgent.
pub(in crate::transfer) type Priority = Arc<AtomicU64>;

/// Of a NAR that somebody waits for.
pub(in crate::transfer) const URGENT: u64 = 0;

/// How long a host whose channels all failed is not asked for this NAR; doubled with each further time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest such pause, as a power of two of the first.
const PAUSE_DOUBLINGS: u32 = 5;

pub(super) struct Nar {
    pub(super) info: Arc<PathInfo>,
    /// It is in parts only because its one host may be far away.
    pub(super) only_if_far: bool,
    /// Its hosts are asked although they rest.
    pub(super) nevertheless: bool,
    priority: Priority,
    /// Its bytes come from elsewhere: hosts are only to compare them.
    only_compare: bool,
    began: Instant,
    /// Bytes that have come of it, from whomever.
    received: Arc<AtomicU64>,
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
    /// A NAR of which everything from the byte `from` on is wanted, from these hosts.
    pub(super) fn new(
        info: Arc<PathInfo>,
        hosts: Vec<HostId>,
        from: u64,
        priority: Priority,
    ) -> Self {
        let parts = Parts::new(from..info.nar_size);
        Self {
            info,
            only_if_far: false,
            nevertheless: false,
            priority,
            only_compare: false,
            began: Instant::now(),
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

    /// The same for a NAR that comes by itself from elsewhere, for these hosts to compare.
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

    /// The range of the next part that is to come from elsewhere, as offset and length; `None` while no more
    /// can be held, or when that is all.
    pub(super) fn next_supply(&self, sender: Channel) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let part = state.parts.next(sender, true, Instant::now())?;
        let (_, len) = state.parts.range(part);
        Some((part, len))
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
        let mut state = self.state.lock();
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
            Some(Listing::Known(_)) if self.only_compare => Next::Nothing,
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
            None if parts.is_missing_some() || parts.has_check_for(host) => Next::Unlisted,
            _ => Next::Nothing,
        }
    }

    pub(super) fn hosts(&self) -> Vec<HostId> {
        self.state.lock().hosts.clone()
    }

    /// These may be asked too. Gives those that are new.
    pub(super) fn add_hosts(&self, mut hosts: Vec<HostId>) -> Vec<HostId> {
        let mut state = self.state.lock();
        hosts.retain(|host| !state.hosts.contains(host));
        state.hosts.extend(&hosts);
        hosts
    }

    /// A channel of that host goes to list it, unless another one has.
    pub(super) fn start_listing(&self, host: HostId) -> bool {
        let mut state = self.state.lock();
        let free = !state.listings.contains_key(&host);
        if free {
            state.listings.insert(host, Listing::Asked);
        }
        free
    }

    /// What came of it: whether it can be read in parts there.
    pub(super) fn listed(&self, host: HostId, layout: Option<Layout>) -> bool {
        let fits = layout.filter(|layout| layout.nar_size() == self.info.nar_size);
        let can_be_read = fits.is_some();
        let listing = fits.map_or(Listing::Unfit, Listing::Known);
        self.state.lock().listings.insert(host, listing);
        self.arrived.notify_one();
        can_be_read
    }

    /// So many bytes of a part have come by now, `more` of them since this was last told.
    pub(super) fn progressed(&self, part: u64, channel: Channel, received: u64, more: u64) {
        self.received.fetch_add(more, Ordering::Relaxed);
        self.state.lock().parts.progressed(part, channel, received);
    }

    pub(super) fn arrived(&self, part: u64, bytes: Bytes, channel: Channel) {
        let mut state = self.state.lock();
        state.parts.arrived(part, bytes, channel, Instant::now());
        state.arrivals += 1;
        drop(state);
        self.arrived.notify_one();
    }

    /// A channel of that host is gone. `failed`: it was the last one, and it did not leave of itself.
    pub(super) fn lost(&self, host: HostId, channel: Channel, failed: bool) {
        let mut state = self.state.lock();
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

    /// Whether that host was found to have something wrong, or nothing of use.
    pub(super) fn is_unfit(&self, host: HostId) -> bool {
        !self.may_come_from(host)
    }

    /// Whether that host may still bring something.
    pub(super) fn may_come_from(&self, host: HostId) -> bool {
        !matches!(self.state.lock().listings.get(&host), Some(Listing::Unfit))
    }

    /// Hosts that could be asked for something now, or could compare something, had they a channel.
    pub(super) fn could_ask(&self) -> Vec<HostId> {
        let state = self.state.lock();
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
        let mut state = self.state.lock();
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

    /// Waits for news.
    pub(super) async fn changed(&self) {
        self.arrived.notified().await;
    }
}
