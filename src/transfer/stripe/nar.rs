//! One NAR that comes in parts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::parts::{Channel, Parts};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::wire::nar::layout::{Layout, Segment};

/// Where a NAR comes in the order; the smallest is the most urgent.
pub(in crate::transfer) type Priority = Arc<AtomicU64>;

/// Of a NAR that somebody waits for.
pub(in crate::transfer) const URGENT: u64 = 0;

pub(super) struct Nar {
    pub(super) info: Arc<PathInfo>,
    /// It is in parts only because its one host may be far away.
    pub(super) only_if_far: bool,
    priority: Priority,
    // Held for a few instructions, never over an await.
    state: Mutex<State>,
    /// For the one who takes the parts.
    arrived: Notify,
}

struct State {
    parts: Parts,
    /// Who may be asked.
    hosts: Vec<HostId>,
    listings: HashMap<HostId, Listing>,
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
    pub(super) fn new(
        info: Arc<PathInfo>,
        hosts: Vec<HostId>,
        from: u64,
        only_if_far: bool,
        priority: Priority,
    ) -> Self {
        let parts = Parts::new(from..info.nar_size);
        Self {
            info,
            only_if_far,
            priority,
            state: Mutex::new(State {
                parts,
                hosts,
                listings: HashMap::new(),
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

    /// What that channel of that host should ask for.
    pub(super) fn next(&self, host: HostId, channel: Channel) -> Next {
        let mut state = self.lock();
        let State {
            parts,
            hosts,
            listings,
        } = &mut *state;
        if !hosts.contains(&host) {
            return Next::Nothing;
        }
        match listings.get(&host) {
            Some(Listing::Known(layout)) => match parts.next(channel, Instant::now()) {
                Some(part) => {
                    let (start, len) = parts.range(part);
                    Next::Part(part, layout.segment(start, len))
                }
                None => Next::Nothing,
            },
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
        if fits.is_none() {
            log::debug!(
                "{}: cannot be read in parts on host {host:?}",
                self.info.path
            );
        }
        let listing = fits.map_or(Listing::Unfit, Listing::Known);
        self.lock().listings.insert(host, listing);
        self.arrived.notify_one();
    }

    pub(super) fn arrived(&self, part: u64, bytes: Bytes, channel: Channel) {
        self.lock()
            .parts
            .arrived(part, bytes, channel, Instant::now());
        self.arrived.notify_one();
    }

    /// A channel of that host is gone.
    pub(super) fn lost(&self, host: HostId, channel: Channel) {
        let mut state = self.lock();
        state.parts.lost(channel);
        // It may have been the one that was at it.
        if matches!(state.listings.get(&host), Some(Listing::Asked)) {
            state.listings.remove(&host);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Whether that host may still bring something.
    pub(super) fn may_come_from(&self, host: HostId) -> bool {
        !matches!(self.lock().listings.get(&host), Some(Listing::Unfit))
    }

    /// The next part in order, if it has come, with the host that sent it; and whether that was all.
    pub(super) fn take(&self) -> (Option<(Bytes, HostId)>, bool) {
        let mut state = self.lock();
        (state.parts.take(), state.parts.is_done())
    }

    /// Waits for news.
    pub(super) async fn changed(&self) {
        self.arrived.notified().await;
    }
}
