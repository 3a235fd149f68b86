//! When a line about a transfer, or about all of them, is due, and what the last one says. Time is an argument.

use std::time::{Duration, Instant};

use super::super::text::{part, size, time};
use crate::transfer::progress::Outcome;

/// How often lines are printed.
#[derive(Debug, Clone, Copy)]
pub(in crate::progress) struct LineIntervals {
    /// Time from the start to the first line. What ends before has none.
    first: Duration,
    /// Shortest time from line to line.
    next: Duration,
}

/// For a single transfer, and for all together.
pub(in crate::progress) const SINGLE: LineIntervals = LineIntervals {
    first: Duration::from_secs(2),
    next: Duration::from_secs(5),
};
/// For one of several transfers, where there are also lines about all together.
pub(in crate::progress) const ONE_OF_SEVERAL: LineIntervals = LineIntervals {
    first: Duration::from_secs(10),
    next: Duration::from_secs(30),
};
/// Longest time from line to line. The interval grows to a tenth of the time that has passed, up to this.
const MAX_INTERVAL: Duration = Duration::from_secs(30);

/// Decides when the next line about something is due.
#[derive(Debug)]
pub(in crate::progress) struct LineTimer {
    started: Instant,
    last: Instant,
    printed: bool,
}

impl LineTimer {
    pub(in crate::progress) fn new(now: Instant) -> Self {
        Self {
            started: now,
            last: now,
            printed: false,
        }
    }

    /// Whether a line is due; if so it counts as printed.
    pub(in crate::progress) fn is_due(&mut self, now: Instant, intervals: LineIntervals) -> bool {
        let interval = (now.duration_since(self.started) / 10).min(MAX_INTERVAL);
        let pause = match self.printed {
            true => intervals.next.max(interval),
            false => intervals.first,
        };
        if now.duration_since(self.last) < pause {
            return false;
        }
        self.last = now;
        self.printed = true;
        true
    }

    /// The last line, where there were others. `done` of `total` bytes have come.
    pub(in crate::progress) fn finish(
        &self,
        now: Instant,
        name: &str,
        (done, total): (u64, u64),
        outcome: Outcome,
    ) -> Option<String> {
        self.printed.then(|| {
            finished(
                name,
                (done, total),
                now.duration_since(self.started),
                outcome,
            )
        })
    }
}

/// How something ended that took so long.
pub(in crate::progress) fn finished(
    name: &str,
    (done, total): (u64, u64),
    lasted: Duration,
    outcome: Outcome,
) -> String {
    match outcome {
        Outcome::Done => {
            let rate = done as f64 / lasted.as_secs_f64().max(0.001);
            let (size, rate) = (size(done), size(rate as u64));
            format!("{name}: done, {size} in {}, {rate}/s", time(lasted))
        }
        Outcome::Failed | Outcome::GoesOn => {
            let part = part(done, total);
            format!("{name}: failed after {part} in {}", time(lasted))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn short_transfers_have_no_lines() {
        let start = Instant::now();
        let mut timer = LineTimer::new(start);
        assert!(!timer.is_due(at(start, 1.9), SINGLE));
        for outcome in [Outcome::Done, Outcome::Failed] {
            assert_eq!(timer.finish(at(start, 1.9), "hello", (9, 9), outcome), None);
        }
    }

    #[test]
    fn lines_come_less_often_as_time_goes_by() {
        let due = |intervals, seconds: u32| {
            let start = Instant::now();
            let mut timer = LineTimer::new(start);
            let ticks = (0..=2 * seconds).map(|tick| f64::from(tick) / 2.0);
            let due = ticks.filter(|tick| timer.is_due(at(start, *tick), intervals));
            due.collect::<Vec<f64>>()
        };
        assert_eq!(due(SINGLE, 20), [2.0, 7.0, 12.0, 17.0]);
        assert_eq!(due(ONE_OF_SEVERAL, 75), [10.0, 40.0, 70.0]);
        let hour = due(SINGLE, 3600);
        assert!(hour.len() < 150, "{}", hour.len());
        let gaps: Vec<f64> = hour.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps.iter().all(|gap| (5.0..=30.0).contains(gap)),
            "{gaps:?}"
        );
        assert_eq!(gaps.last(), Some(&30.0));
    }

    #[test]
    fn long_transfers_have_a_last_line() {
        let start = Instant::now();
        let mut timer = LineTimer::new(start);
        assert!(timer.is_due(at(start, 2.0), SINGLE));
        let last =
            |done, outcome| timer.finish(at(start, 17.0), "gcc-14", (done, 400 * MIB), outcome);
        assert_eq!(
            last(400 * MIB, Outcome::Done).as_deref(),
            Some("gcc-14: done, 400.0 MiB in 17 s, 23.5 MiB/s")
        );
        assert_eq!(
            last(120 * MIB, Outcome::Failed).as_deref(),
            Some("gcc-14: failed after 120.0 of 400.0 MiB in 17 s")
        );
    }
}
