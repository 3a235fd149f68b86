//! One transfer, or all of them, as lines show them. Time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::text::{part, size, time};
use crate::transfer::progress::Outcome;

/// The rate is that of about so much time before now.
const WINDOW: Duration = Duration::from_secs(15);
/// Samples lie at least so far apart, which bounds their number.
const SAMPLE: Duration = Duration::from_secs(1);
/// When lines come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm {
    /// What lasts no longer than this has none.
    first: Duration,
    /// Shortest time from line to line.
    next: Duration,
}

/// Of a transfer that nothing else tells about, and of all together.
pub(super) const ALONE: Rhythm = Rhythm {
    first: Duration::from_secs(2),
    next: Duration::from_secs(5),
};
/// Of one transfer where lines tell about the whole, too.
pub(super) const AMONG_OTHERS: Rhythm = Rhythm {
    first: Duration::from_secs(10),
    next: Duration::from_secs(30),
};
/// Longest time from line to line. What has lasted long is told about less often: after a time a
/// tenth of that time.
const RAREST: Duration = Duration::from_secs(30);

/// Bytes over time.
#[derive(Debug)]
pub(super) struct Pace {
    /// Times and byte counts, the oldest first; never empty.
    samples: VecDeque<(Instant, u64)>,
    last: u64,
    moved: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            samples: [(now, 0)].into(),
            last: 0,
            moved: now,
        }
    }

    /// Takes note of the count. Returns bytes a second of late and how long it has stood still.
    pub(super) fn note(&mut self, now: Instant, done: u64) -> (f64, Duration) {
        if done != self.last {
            self.last = done;
            self.moved = now;
        }
        // The oldest that is used lies just outside the window, so that there always is one.
        while let Some((second, _)) = self.samples.get(1)
            && now.duration_since(*second) >= WINDOW
        {
            self.samples.pop_front();
        }
        let (then, before) = self.samples.front().copied().unwrap_or((now, done));
        if let Some((newest, _)) = self.samples.back()
            && now.duration_since(*newest) >= SAMPLE
        {
            self.samples.push_back((now, done));
        }
        let span = now.duration_since(then).as_secs_f64();
        // Too short a time says nothing.
        let rate = if span >= 0.25 {
            done.saturating_sub(before) as f64 / span
        } else {
            0.0
        };
        (rate, now.duration_since(self.moved))
    }
}

/// Something that is shown by lines.
#[derive(Debug)]
pub(super) struct Lines {
    started: Instant,
    last: Instant,
    printed: bool,
}

impl Lines {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            last: now,
            printed: false,
        }
    }

    /// Whether a line is due; if so it counts as printed.
    pub(super) fn is_due(&mut self, now: Instant, rhythm: Rhythm) -> bool {
        let rarer = (now.duration_since(self.started) / 10).min(RAREST);
        let pause = match self.printed {
            true => rhythm.next.max(rarer),
            false => rhythm.first,
        };
        if now.duration_since(self.last) < pause {
            return false;
        }
        self.last = now;
        self.printed = true;
        true
    }

    /// The last line, where there were others. `done` of `total` bytes have come.
    pub(super) fn finish(
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
pub(super) fn finished(
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
    fn the_rate_is_that_of_late() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.note(start, 0), (0.0, Duration::ZERO));
        assert_eq!(pace.note(at(start, 0.5), 50).0, 100.0);
        // A minute of 100 bytes a second, then one of 10.
        let mut done = 0;
        for second in 1..=120 {
            done += if second <= 60 { 100 } else { 10 };
            let (rate, silence) = pace.note(at(start, second.into()), done);
            assert_eq!(silence, Duration::ZERO);
            match second {
                ..=60 => assert_eq!(rate, 100.0),
                61..=75 => assert!((10.0..100.0).contains(&rate)),
                _ => assert_eq!(rate, 10.0),
            }
        }
        assert!(pace.samples.len() < 20);
        let (rate, silence) = pace.note(at(start, 150.0), done);
        assert_eq!((rate, silence), (0.0, Duration::from_secs(30)));
    }

    #[test]
    fn short_transfers_have_no_lines() {
        let start = Instant::now();
        let mut lines = Lines::new(start);
        assert!(!lines.is_due(at(start, 1.9), ALONE));
        for outcome in [Outcome::Done, Outcome::Failed] {
            assert_eq!(lines.finish(at(start, 1.9), "hello", (9, 9), outcome), None);
        }
    }

    #[test]
    fn lines_come_less_often_as_time_goes_by() {
        let due = |rhythm, seconds: u32| {
            let start = Instant::now();
            let mut lines = Lines::new(start);
            let ticks = (0..=2 * seconds).map(|tick| f64::from(tick) / 2.0);
            let due = ticks.filter(|tick| lines.is_due(at(start, *tick), rhythm));
            due.collect::<Vec<f64>>()
        };
        assert_eq!(due(ALONE, 20), [2.0, 7.0, 12.0, 17.0]);
        assert_eq!(due(AMONG_OTHERS, 75), [10.0, 40.0, 70.0]);
        let hour = due(ALONE, 3600);
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
        let mut lines = Lines::new(start);
        assert!(lines.is_due(at(start, 2.0), ALONE));
        let last =
            |done, outcome| lines.finish(at(start, 17.0), "gcc-14", (done, 400 * MIB), outcome);
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
