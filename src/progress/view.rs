//! One transfer as it is shown. Time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::text::{Standing, part, size, time};
use crate::transfer::progress::Outcome;

/// The rate is that of about so much time before now.
const WINDOW: Duration = Duration::from_secs(15);
/// Samples lie at least so far apart, which bounds their number.
const SAMPLE: Duration = Duration::from_secs(1);
/// A transfer has lines only when it lasts longer than this.
const FIRST_LINE: Duration = Duration::from_secs(2);
/// Time from line to line.
const NEXT_LINE: Duration = Duration::from_secs(5);

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
        let rate = if span > 0.0 {
            done.saturating_sub(before) as f64 / span
        } else {
            0.0
        };
        (rate, now.duration_since(self.moved))
    }
}

/// A transfer shown by lines.
#[derive(Debug)]
pub(super) struct Lines {
    name: String,
    total: u64,
    started: Instant,
    pace: Pace,
    due: Instant,
    printed: bool,
}

impl Lines {
    pub(super) fn new(name: &str, total: u64, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            total,
            started: now,
            pace: Pace::new(now),
            due: now + FIRST_LINE,
            printed: false,
        }
    }

    /// The line that is due, if one is.
    pub(super) fn tick(&mut self, now: Instant, done: u64, host: &str) -> Option<String> {
        let (rate, silence) = self.pace.note(now, done);
        if now < self.due {
            return None;
        }
        self.due = now + NEXT_LINE;
        self.printed = true;
        let standing = Standing {
            done,
            total: self.total,
            host,
            rate,
            silence,
        };
        Some(format!("{}: {}", self.name, standing.long()))
    }

    /// The last line, where there were others.
    pub(super) fn finish(&self, now: Instant, done: u64, outcome: Outcome) -> Option<String> {
        if !self.printed {
            return None;
        }
        let Self { name, total, .. } = self;
        let lasted = now.duration_since(self.started);
        let text = match outcome {
            Outcome::Done => {
                let rate = done as f64 / lasted.as_secs_f64().max(0.001);
                let (size, rate) = (size(done), size(rate as u64));
                format!("{name}: done, {size} in {}, {rate}/s", time(lasted))
            }
            Outcome::Failed => {
                let part = part(done, *total);
                format!("{name}: failed after {part} in {}", time(lasted))
            }
        };
        Some(text)
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
        let mut lines = Lines::new("hello", 9, start);
        assert_eq!(lines.tick(at(start, 1.9), 9, "h"), None);
        assert_eq!(lines.finish(at(start, 1.9), 9, Outcome::Done), None);
        assert_eq!(lines.finish(at(start, 1.9), 9, Outcome::Failed), None);
    }

    #[test]
    fn long_transfers_have_one_now_and_then_and_one_at_the_end() {
        let start = Instant::now();
        let mut lines = Lines::new("gcc-14", 400 * MIB, start);
        let mut printed = Vec::new();
        for quarter in 0..=68u32 {
            let seconds = f64::from(quarter) / 4.0;
            let done = u64::from(quarter) * 6 * MIB;
            printed.extend(lines.tick(at(start, seconds), done.min(400 * MIB), "build1"));
        }
        assert_eq!(
            printed,
            [
                "gcc-14: 48.0 of 400.0 MiB (12 %) from build1, 24.0 MiB/s, 15 s left",
                "gcc-14: 168.0 of 400.0 MiB (42 %) from build1, 24.0 MiB/s, 10 s left",
                "gcc-14: 288.0 of 400.0 MiB (72 %) from build1, 24.0 MiB/s, 5 s left",
                "gcc-14: 400.0 of 400.0 MiB (100 %) from build1, 23.5 MiB/s",
            ]
        );
        assert_eq!(
            lines.finish(at(start, 17.0), 400 * MIB, Outcome::Done),
            Some("gcc-14: done, 400.0 MiB in 17 s, 23.5 MiB/s".to_owned())
        );
        assert_eq!(
            lines.finish(at(start, 17.0), 120 * MIB, Outcome::Failed),
            Some("gcc-14: failed after 120.0 of 400.0 MiB in 17 s".to_owned())
        );
    }

    #[test]
    fn silence_is_told_too() {
        let start = Instant::now();
        let mut lines = Lines::new("gcc-14", 400 * MIB, start);
        lines.tick(at(start, 3.0), 4 * MIB, "a");
        assert_eq!(
            lines.tick(at(start, 33.0), 4 * MIB, "b").as_deref(),
            Some("gcc-14: 4.0 of 400.0 MiB (1 %) from b, no data for 30 s")
        );
    }
}
