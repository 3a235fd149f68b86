//! All transfers of a command together. No IO; time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::rate::RateMeter;
use super::status::TransferStatus;
use crate::transfer::progress::Outcome;

/// What has come so far, and what is still to come.
#[derive(Debug)]
pub(in crate::progress) struct Totals {
    expected: Option<(u64, u64)>,
    started: u64,
    done: u64,
    failed: u64,
    /// Transfers that others went on with.
    replaced: u64,
    /// Bytes of the transfers that are done.
    bytes: u64,
    /// Bytes of all transfers that have ended, in vain or not.
    moved: u64,
    rate_meter: RateMeter,
    rate: f64,
    silence: Duration,
    /// Counts what has come over the wire, where that is known.
    wire_bytes: Option<Arc<AtomicU64>>,
}

impl Totals {
    pub(in crate::progress) fn new(now: Instant) -> Self {
        Self {
            expected: None,
            started: 0,
            done: 0,
            failed: 0,
            replaced: 0,
            bytes: 0,
            moved: 0,
            rate_meter: RateMeter::new(now),
            rate: 0.0,
            silence: Duration::ZERO,
            wire_bytes: None,
        }
    }

    /// The bytes that have come over the wire are counted there.
    pub(in crate::progress) fn show_wire_bytes(&mut self, count: Arc<AtomicU64>) {
        self.wire_bytes = Some(count);
    }

    /// So many paths and bytes are to come in all.
    pub(in crate::progress) fn expect(&mut self, paths: u64, bytes: u64) {
        self.expected = Some((paths, bytes));
    }

    /// A transfer begins. Returns whether it is the first: the time before it does not count for the rate.
    pub(in crate::progress) fn start(&mut self, now: Instant) -> bool {
        self.started += 1;
        if self.started == 1 {
            self.rate_meter = RateMeter::new(now);
        }
        self.started == 1
    }

    /// A transfer has ended that brought so many bytes.
    pub(in crate::progress) fn finish(&mut self, bytes: u64, outcome: Outcome) {
        self.moved = self.moved.saturating_add(bytes);
        match outcome {
            Outcome::Done => {
                self.done += 1;
                self.bytes = self.bytes.saturating_add(bytes);
            }
            Outcome::Failed => self.failed += 1,
            Outcome::GoesOn => self.replaced += 1,
        }
    }

    /// Records how many bytes the `running` transfers have brought.
    pub(in crate::progress) fn tick(&mut self, now: Instant, running: u64) {
        let moved = self.moved.saturating_add(running);
        (self.rate, self.silence) = self.rate_meter.record(now, moved);
    }

    /// Whether there is more to say than about one transfer.
    pub(in crate::progress) fn is_several(&self) -> bool {
        self.expected.is_some() || self.started_or_done() > 1
    }

    /// Transfers that are done or running.
    fn started_or_done(&self) -> u64 {
        self.started - self.failed - self.replaced
    }

    /// Paths that are done and that are expected; without knowing better those that have begun.
    pub(in crate::progress) fn paths(&self) -> (u64, u64) {
        let expected = self
            .expected
            .map_or(self.started_or_done(), |(paths, _)| paths);
        (self.done, expected.max(self.done))
    }

    /// Transfers that failed.
    pub(in crate::progress) fn failed(&self) -> u64 {
        self.failed
    }

    /// `12 of 40 paths`, or `12 paths`.
    pub(in crate::progress) fn name(&self) -> String {
        match (self.paths(), self.expected) {
            ((done, 1), Some(_)) => format!("{done} of 1 path"),
            ((done, all), Some(_)) => format!("{done} of {all} paths"),
            ((1, _), None) => "1 path".to_owned(),
            ((done, _), None) => format!("{done} paths"),
        }
    }

    /// How far all are, with the bytes of the running transfers, if any run.
    pub(in crate::progress) fn status(&self, running: Option<u64>) -> TransferStatus<'static> {
        let done = self.bytes.saturating_add(running.unwrap_or(0));
        let total = self.expected.map_or(0, |(_, bytes)| bytes);
        let wire = self.wire_bytes.as_ref();
        let wire = wire.map(|count| count.load(Ordering::Relaxed));
        TransferStatus {
            direction: "",
            // More may come than was expected.
            done: if total > 0 { done.min(total) } else { done },
            total,
            host: "",
            rate: self.rate,
            // With nothing running, nothing is waited for.
            silence: running.map_or(Duration::ZERO, |_| self.silence),
            // What is read ahead has come and is not done yet.
            wire: wire.filter(|wire| *wire < done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_transfers_do_not_count_but_move_bytes() {
        let start = Instant::now();
        let mut totals = Totals::new(start);
        assert!(totals.start(start));
        assert!(!totals.start(start));
        assert!(totals.is_several());
        totals.finish(100, Outcome::Failed);
        assert!(!totals.is_several());
        // One that another one goes on with is the same.
        assert!(!totals.start(start));
        totals.finish(0, Outcome::GoesOn);
        assert!(!totals.is_several());
        assert_eq!(totals.failed(), 1);
        totals.tick(start + Duration::from_secs(1), 50);
        let status = totals.status(Some(50));
        assert_eq!((status.done, status.total), (50, 0));
        assert_eq!(status.rate, 150.0);
        assert_eq!(totals.name(), "0 paths");
        totals.finish(60, Outcome::Done);
        assert_eq!((totals.name().as_str(), totals.paths()), ("1 path", (1, 1)));
        totals.expect(40, 50);
        assert_eq!(totals.name(), "1 of 40 paths");
        // Fewer bytes over the wire are told.
        let wire = Arc::new(AtomicU64::new(60));
        totals.show_wire_bytes(wire.clone());
        assert_eq!(totals.status(None).wire, None);
        wire.store(7, Ordering::Relaxed);
        assert_eq!(totals.status(None).wire, Some(7));
        // More than was promised is not shown as more than all.
        assert_eq!(totals.status(None).done, 50);
        assert!(totals.is_several());
    }
}
