//! Whether a host takes bytes so slowly that compressing them pays, as seen while they are sent. Times are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::remote::SLOW;

/// What is written at first only fills buffers on the way.
const FILLING: Duration = Duration::from_millis(300);

/// How long it is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// From so many paths a second on it is the store that takes its time, and not the link.
const PATHS_OF_LINK: u64 = 300;

/// With fewer bytes left than that, or than it takes in [`WINDOW`] twice, it does not pay to begin with anything else.
const LEFT_MIN: u64 = 8 << 20;

/// How far a push to a host has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes that were written.
    pub(super) wire: u64,
    /// Paths that it has taken.
    pub(super) paths: u64,
    /// Bytes of NARs that are to be sent yet.
    pub(super) left: u64,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the first byte was seen to be written.
    began: Option<Instant>,
    seen: VecDeque<(Instant, Progress)>,
}

impl Pace {
    /// How many bytes a second go, when that is so few that compressing pays. To be called a few times a second.
    pub(super) fn slow_rate(&mut self, now: Instant, progress: Progress) -> Option<u64> {
        if progress.wire == 0 {
            return None;
        }
        let began = *self.began.get_or_insert(now);
        if now - began < FILLING {
            return None;
        }
        self.seen.push_back((now, progress));
        // The youngest one that is old enough stays.
        while self.seen.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.seen.pop_front();
        }
        let (at, before) = *self.seen.front()?;
        let took = now - at;
        if took < WINDOW {
            return None;
        }
        let rate = |count: u64| (count as f64 / took.as_secs_f64()) as u64;
        let bytes = rate(progress.wire - before.wire);
        let is_link = bytes < SLOW && rate(progress.paths - before.paths) < PATHS_OF_LINK;
        (is_link && progress.left > LEFT_MIN.max(2 * bytes)).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    /// What is found at which tick of 250 ms, with so many bytes and paths a second and `all` bytes to send.
    fn found(buffered: u64, bytes: u64, paths: u64, all: u64) -> Option<(u64, u64)> {
        let (mut pace, began) = (Pace::default(), Instant::now());
        (0..100).find_map(|tick: u64| {
            let wire = (buffered + bytes * tick / 4).min(all);
            let progress = Progress {
                wire,
                paths: paths * tick / 4,
                left: all - wire,
            };
            let now = began + Duration::from_millis(250 * tick);
            pace.slow_rate(now, progress).map(|rate| (tick, rate))
        })
    }

    #[test]
    fn a_slow_link_is_found_after_a_moment_and_a_fast_one_never() {
        assert_eq!(found(8 << 20, 5_000_000, 0, GB), Some((6, 5_000_000)));
        assert_eq!(found(8 << 20, 40_000_000, 0, 10 * GB), None);
    }

    #[test]
    fn a_store_that_takes_many_paths_is_no_slow_link_and_little_is_not_worth_it() {
        assert_eq!(found(0, 5_000_000, 1000, GB), None);
        assert!(found(0, 5_000_000, 100, GB).is_some());
        assert_eq!(found(0, 5_000_000, 0, 14_000_000), None);
        assert_eq!(found(0, 500_000, 0, 7_000_000), None);
        assert_eq!(found(0, 0, 0, 0), None);
    }
}
