//! The memory that NARs read ahead may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What may be read ahead at first, in bytes: the caller may fetch everything elsewhere.
const AT_FIRST: u64 = 64 << 20;

/// How much more may be read ahead for each byte that was fetched.
const GROWTH: u64 = 4;

/// What a NAR takes, in bytes: a bit more than it is, for the blocks that it comes in.
pub(super) fn room_for(nar_size: u64) -> u64 {
    nar_size.saturating_add(nar_size / 16)
}

/// A limit for all that is read ahead. It opens up as the caller fetches.
#[derive(Debug)]
pub(super) struct Budget {
    /// In bytes.
    total: u64,
    used: AtomicU64,
    fetched: AtomicU64,
}

impl Budget {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            used: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
        }
    }

    /// The largest NAR that is read ahead, in bytes: one alone shall not take all.
    pub(super) fn largest(&self) -> u64 {
        self.total / 2
    }

    /// What may be held by now, in bytes.
    fn allowed(&self) -> u64 {
        let fetched = self.fetched.load(Ordering::Relaxed);
        AT_FIRST
            .saturating_add(fetched.saturating_mul(GROWTH))
            .min(self.total)
    }

    /// Room for so many bytes, if there is. When nothing is held yet, anything up to
    /// [`largest`](Self::largest) is let in.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let allowed = self.allowed();
        let take = |used: u64| {
            let sum = used.checked_add(bytes)?;
            let fits = sum <= allowed || (used == 0 && bytes <= self.largest());
            fits.then_some(sum)
        };
        let taken = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.ok().map(|_| Reservation {
            budget: self.clone(),
            bytes,
        })
    }

    /// The caller fetches so many bytes here, not elsewhere.
    pub(super) fn caller_fetches(&self, bytes: u64) {
        let more = |fetched: u64| Some(fetched.saturating_add(bytes));
        let _ = self
            .fetched
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether so much is held that little more can be.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.allowed() / 4 * 3
    }
}

/// A part of the budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// So many bytes of it have been fetched by the caller.
    pub(super) fn fetched(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_below_the_limit_and_comes_back() {
        let budget = Arc::new(Budget::new(256 << 20));
        let mut first = budget.reserve(60 << 20).unwrap();
        assert!(budget.is_nearly_full());
        assert!(budget.reserve(5 << 20).is_none(), "nothing fetched yet");
        first.fetched(10 << 20);
        budget.caller_fetches(10 << 20);
        let second = budget.reserve(50 << 20).unwrap();
        assert!(budget.reserve(5 << 20).is_none());
        drop((first, second));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        budget.fetched.store(u64::MAX / 2, Ordering::Relaxed);
        let all: Vec<_> = std::iter::from_fn(|| budget.reserve(100 << 20)).collect();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn one_large_nar_is_let_in_when_nothing_is_held() {
        let budget = Arc::new(Budget::new(256 << 20));
        assert!(budget.reserve(129 << 20).is_none());
        assert!(budget.reserve(u64::MAX).is_none());
        let large = budget.reserve(128 << 20).unwrap();
        assert!(budget.reserve(1).is_none());
        drop(large);
        assert!(budget.reserve(1).is_some());
    }
}
