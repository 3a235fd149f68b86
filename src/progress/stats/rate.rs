//! How fast bytes come. Time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(15);
/// The shortest time between two samples, which bounds their number.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time that a rate is measured over.
const MIN_SPAN: Duration = Duration::from_millis(250);

/// Measures the rate of a growing byte count, and how long it has stood still.
#[derive(Debug)]
pub(in crate::progress) struct RateMeter {
    /// Times and byte counts, the oldest first; never empty.
    samples: VecDeque<(Instant, u64)>,
    last_count: u64,
    last_change: Instant,
}

impl RateMeter {
    pub(in crate::progress) fn new(now: Instant) -> Self {
        Self {
            samples: [(now, 0)].into(),
            last_count: 0,
            last_change: now,
        }
    }

    /// Records the count. Returns bytes a second within [`WINDOW`], and how long the count has stood still.
    pub(in crate::progress) fn record(&mut self, now: Instant, done: u64) -> (f64, Duration) {
        if done != self.last_count {
            self.last_count = done;
            self.last_change = now;
        }
        // The oldest that is used lies just outside the window, so that there always is one.
        while let Some((second, _)) = self.samples.get(1)
            && now.duration_since(*second) >= WINDOW
        {
            self.samples.pop_front();
        }
        let (then, before) = self.samples.front().copied().unwrap_or((now, done));
        if let Some((newest, _)) = self.samples.back()
            && now.duration_since(*newest) >= SAMPLE_INTERVAL
        {
            self.samples.push_back((now, done));
        }
        let span = now.duration_since(then);
        let rate = if span >= MIN_SPAN {
            done.saturating_sub(before) as f64 / span.as_secs_f64()
        } else {
            0.0
        };
        (rate, now.duration_since(self.last_change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_rate_is_that_of_late() {
        let start = Instant::now();
        let mut meter = RateMeter::new(start);
        assert_eq!(meter.record(start, 0), (0.0, Duration::ZERO));
        assert_eq!(meter.record(at(start, 0.5), 50).0, 100.0);
        // A minute of 100 bytes a second, then one of 10.
        let mut done = 0;
        for second in 1..=120 {
            done += if second <= 60 { 100 } else { 10 };
            let (rate, silence) = meter.record(at(start, second.into()), done);
            assert_eq!(silence, Duration::ZERO);
            match second {
                ..=60 => assert_eq!(rate, 100.0),
                61..=75 => assert!((10.0..100.0).contains(&rate)),
                _ => assert_eq!(rate, 10.0),
            }
        }
        assert!(meter.samples.len() < 20);
        let (rate, silence) = meter.record(at(start, 150.0), done);
        assert_eq!((rate, silence), (0.0, Duration::from_secs(30)));
    }
}
