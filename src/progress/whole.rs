//! All transfers of a command together. No IO; time is an argument.

use std::time::{Duration, Instant};

use super::text::Standing;
use super::view::Pace;
use crate::transfer::progress::Outcome;

/// What has come so far, and what is still to come.
#[derive(Debug)]
pub(super) struct Whole {
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
    pace: Pace,
    rate: f64,
    silence: Duration,
}

impl Whole {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            expected: None,
            started: 0,
            done: 0,
            failed: 0,
            replaced: 0,
            bytes: 0,
            moved: 0,
            pace: Pace::new(now),
            rate: 0.0,
            silence: Duration::ZERO,
        }
    }

    /// So many paths and bytes are to come in all.
    pub(super) fn expect(&mut self, paths: u64, bytes: u64) {
        self.expected = Some((paths, bytes));
    }

    /// A transfer begins. Whether it is the first: what came before is not time in which nothing moved.
    pub(super) fn start(&mut self, now: Instant) -> bool {
        self.started += 1;
        if self.started == 1 {
            self.pace = Pace::new(now);
        }
        self.started == 1
    }

    /// A transfer has ended that brought so many bytes.
    pub(super) fn finish(&mut self, bytes: u64, outcome: Outcome) {
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

    /// Takes note of how many bytes the `running` transfers have brought.
    pub(super) fn tick(&mut self, now: Instant, running: u64) {
        let moved = self.moved.saturating_add(running);
        (self.rate, self.silence) = self.pace.note(now, moved);
    }

    /// Whether there is more to say than about one transfer.
    pub(super) fn is_many(&self) -> bool {
        self.expected.is_some() || self.begun() > 1
    }

    /// Those that are done or may be.
    fn begun(&self) -> u64 {
        self.started - self.failed - self.replaced
    }

    /// Paths that are done and that are expected; without knowing better those that have begun.
    pub(super) fn paths(&self) -> (u64, u64) {
        let expected = self.expected.map_or(self.begun(), |(paths, _)| paths);
        (self.done, expected.max(self.done))
    }

    /// Transfers that failed.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// `12 of 40 paths`, or `12 paths`.
    pub(super) fn name(&self) -> String {
        match (self.paths(), self.expected) {
            ((done, all), Some(_)) => format!("{done} of {all} paths"),
            ((1, _), None) => "1 path".to_owned(),
            ((done, _), None) => format!("{done} paths"),
        }
    }

    /// Where it stands, with what the running transfers have brought, if any run.
    pub(super) fn standing(&self, running: Option<u64>) -> Standing<'static> {
        let done = self.bytes.saturating_add(running.unwrap_or(0));
        let total = self.expected.map_or(0, |(_, bytes)| bytes);
        Standing {
            // What was promised may be less than what comes.
            done: if total > 0 { done.min(total) } else { done },
            total,
            host: "",
            rate: self.rate,
            // With nothing under way there is nothing to wait for.
            silence: running.map_or(Duration::ZERO, |_| self.silence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_transfers_do_not_count_but_move_bytes() {
        let start = Instant::now();
        let mut whole = Whole::new(start);
        assert!(whole.start(start));
        assert!(!whole.start(start));
        assert!(whole.is_many());
        whole.finish(100, Outcome::Failed);
        assert!(!whole.is_many());
        // One that another one goes on with is the same.
        assert!(!whole.start(start));
        whole.finish(0, Outcome::GoesOn);
        assert!(!whole.is_many());
        assert_eq!(whole.failed(), 1);
        whole.tick(start + Duration::from_secs(1), 50);
        let standing = whole.standing(Some(50));
        assert_eq!((standing.done, standing.total), (50, 0));
        assert_eq!(standing.rate, 150.0);
        assert_eq!(whole.name(), "0 paths");
        whole.finish(60, Outcome::Done);
        assert_eq!((whole.name().as_str(), whole.paths()), ("1 path", (1, 1)));
        whole.expect(40, 50);
        assert_eq!(whole.name(), "1 of 40 paths");
        // More than was promised is not shown as more than all.
        assert_eq!(whole.standing(None).done, 50);
        assert!(whole.is_many());
    }
}
