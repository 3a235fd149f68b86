//! Counts where answers came from, for `status`.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many paths were answered from where, since the resolver began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// From the memory tier.
    pub memory: u64,
    /// From the disk tier.
    pub disk: u64,
    /// By a request that was already in flight, such as a prefetch.
    pub ahead: u64,
    /// By asking hosts.
    pub hosts: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) memory: AtomicU64,
    pub(super) disk: AtomicU64,
    pub(super) ahead: AtomicU64,
    pub(super) hosts: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(number as u64, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            memory: get(&self.memory),
            disk: get(&self.disk),
            ahead: get(&self.ahead),
            hosts: get(&self.hosts),
        }
    }
}
