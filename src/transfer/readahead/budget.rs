//! How many bytes NARs that are read ahead may take, in memory or on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What may be read ahead before the caller has fetched anything, in bytes: it may fetch everything elsewhere.
const INITIAL_BYTES: u64 = 64 << 20;

/// How much more may be read ahead for each byte that was fetched.
const GROWTH_PER_FETCHED_BYTE: u64 = 4;

/// A limit for all that is read ahead, for all callers together.
#[derive(Debug)]
pub(in crate::transfer) struct ByteBudget {
    /// In bytes.
    total: u64,
    used: AtomicU64,
    callers: AtomicU64,
}

impl ByteBudget {
    pub(in crate::transfer) fn new(total: u64) -> Self {
        Self {
            total,
            used: AtomicU64::new(0),
            callers: AtomicU64::new(0),
        }
    }

    /// How many bytes are held.
    pub(in crate::transfer) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many bytes may be held.
    pub(in crate::transfer) fn total(&self) -> u64 {
        self.total
    }
}

/// One caller's share of it, the same for each. It grows as the caller fetches.
#[derive(Debug)]
pub(super) struct CallerBudget {
    all: Arc<ByteBudget>,
    used: AtomicU64,
    fetched: AtomicU64,
}

impl CallerBudget {
    pub(super) fn new(all: Arc<ByteBudget>) -> Self {
        all.callers.fetch_add(1, Ordering::Relaxed);
        Self {
            all,
            used: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
        }
    }

    /// The largest NAR that is read ahead, in bytes: one alone shall not take all.
    pub(super) fn largest(&self) -> u64 {
        self.all.total / 2
    }

    /// What may be held by now, in bytes.
    fn allowed(&self) -> u64 {
        let fetched = self.fetched.load(Ordering::Relaxed);
        let callers = self.all.callers.load(Ordering::Relaxed).max(1);
        INITIAL_BYTES
            .saturating_add(fetched.saturating_mul(GROWTH_PER_FETCHED_BYTE))
            .min(self.all.total / callers)
    }

    /// Reserves so many bytes, if there is room. When nothing is held for this caller yet, anything up to
    /// [`largest`](Self::largest) is let in that the others leave room for; never anything larger.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let (allowed, total) = (self.allowed(), self.all.total);
        take(&self.all.used, |used| {
            let sum = used.checked_add(bytes)?;
            (sum <= total).then_some(sum)
        })?;
        let own = take(&self.used, |used| {
            let sum = used.checked_add(bytes)?;
            let fits = sum <= allowed || used == 0;
            (fits && bytes <= self.largest()).then_some(sum)
        });
        if own.is_none() {
            self.all.used.fetch_sub(bytes, Ordering::AcqRel);
            return None;
        }
        Some(Reservation::new(self, bytes))
    }

    /// Reserves so many bytes, whether there is room or not: until it is given back, others get less.
    pub(super) fn reserve_anyway(self: &Arc<Self>, bytes: u64) -> Reservation {
        let add = |used: u64| Some(used.saturating_add(bytes));
        take(&self.all.used, add);
        take(&self.used, add);
        Reservation::new(self, bytes)
    }

    /// The caller fetches so many bytes here, not elsewhere.
    pub(super) fn caller_fetches(&self, bytes: u64) {
        take(&self.fetched, |fetched| Some(fetched.saturating_add(bytes)));
    }

    /// Whether it is so full that little more can be reserved.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.allowed() / 4 * 3
            || self.all.used() > self.all.total / 4 * 3
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.all.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for CallerBudget {
    fn drop(&mut self) {
        self.all.callers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take(counter: &AtomicU64, change: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    counter
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
        .ok()
}

/// Bytes that are reserved, until they are read or this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<CallerBudget>,
    bytes: u64,
    /// What is read makes no room.
    is_kept: bool,
}

impl Reservation {
    fn new(budget: &Arc<CallerBudget>, bytes: u64) -> Self {
        Self {
            budget: budget.clone(),
            bytes,
            is_kept: false,
        }
    }

    /// The same until this is dropped, whatever is read: a file takes its room until it is closed.
    pub(super) fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    /// The caller has read so many bytes of it.
    pub(super) fn fetched(&mut self, bytes: u64) {
        if self.is_kept {
            return;
        }
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.give_back(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<ByteBudget> {
        Arc::new(ByteBudget::new(256 << 20))
    }

    fn budget(memory: &Arc<ByteBudget>) -> Arc<CallerBudget> {
        Arc::new(CallerBudget::new(memory.clone()))
    }

    #[test]
    fn what_is_held_stays_below_the_limit_and_comes_back() {
        let memory = memory();
        let budget = budget(&memory);
        let mut first = budget.reserve(60 << 20).unwrap();
        assert!(budget.is_nearly_full());
        assert!(budget.reserve(5 << 20).is_none(), "nothing fetched yet");
        first.fetched(10 << 20);
        budget.caller_fetches(10 << 20);
        let second = budget.reserve(50 << 20).unwrap();
        assert!(budget.reserve(5 << 20).is_none());
        drop((first, second));
        assert_eq!((budget.used.load(Ordering::Relaxed), memory.used()), (0, 0));
        budget.fetched.store(u64::MAX / 2, Ordering::Relaxed);
        let all: Vec<_> = std::iter::from_fn(|| budget.reserve(100 << 20)).collect();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn one_large_nar_is_let_in_when_nothing_is_held() {
        let memory = memory();
        let budget = budget(&memory);
        assert!(budget.reserve(129 << 20).is_none());
        assert!(budget.reserve(u64::MAX).is_none());
        let large = budget.reserve(128 << 20).unwrap();
        assert!(budget.reserve(1).is_none());
        drop(large);
        assert!(budget.reserve(1).is_some());
    }

    #[test]
    fn what_is_read_at_once_is_accounted_for_even_without_room() {
        let memory = memory();
        let (one, two) = (budget(&memory), budget(&memory));
        let full: Vec<_> = std::iter::from_fn(|| one.reserve(32 << 20)).collect();
        let mut more = one.reserve_anyway(200 << 20);
        assert_eq!(memory.used(), (full.len() as u64 * 32 + 200) << 20);
        assert!(two.reserve(32 << 20).is_none(), "until it is given back");
        more.fetched(200 << 20);
        assert!(two.reserve(32 << 20).is_some());
        drop((full, more));
        assert_eq!((one.used.load(Ordering::Relaxed), memory.used()), (0, 0));
    }

    #[test]
    fn callers_share_and_none_takes_what_is_another_ones() {
        let memory = memory();
        let (greedy, modest) = (budget(&memory), budget(&memory));
        greedy.caller_fetches(1 << 30);
        let all: Vec<_> = std::iter::from_fn(|| greedy.reserve(32 << 20)).collect();
        assert_eq!(all.len(), 4, "half of it");
        let other = modest.reserve(60 << 20).unwrap();
        assert_eq!(memory.used(), (128 + 60) << 20);
        drop((other, modest));
        let more: Vec<_> = std::iter::from_fn(|| greedy.reserve(32 << 20)).collect();
        assert_eq!(more.len(), 4, "the rest");
    }
}
