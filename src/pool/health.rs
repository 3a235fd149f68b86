//! Whether a host is worth asking. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// How long a host is left alone after its first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What is remembered of a host's failures.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    last_failure: Option<Instant>,
    rest_until: Option<Instant>,
}

impl Health {
    /// Whether the host is to be left alone at `now`.
    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Whether the host is to be left alone at `now` even while all others rest too. This pause
    /// does not grow: with all hosts down, one that comes back is noticed soon, and yet no
    /// question waits for hosts that have just been found dead.
    pub(super) fn has_just_failed(&self, now: Instant) -> bool {
        self.last_failure
            .is_some_and(|failure| now < failure + FIRST_PAUSE)
    }

    /// It failed. Whether this begins a new spell of trouble.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_PAUSE);
        self.failures += 1;
        self.last_failure = Some(now);
        self.rest_until = Some(now + pause);
        self.failures == 1
    }

    /// It did what was asked.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let (mut health, start) = (Health::default(), Instant::now());
        assert!(!health.is_resting(start));
        assert!(health.failed(start));
        assert!(health.is_resting(start + Duration::from_secs(4)));
        let later = start + Duration::from_secs(6);
        assert!(!health.is_resting(later));
        assert!(!health.failed(later), "the same spell of trouble");
        assert!(health.is_resting(later + Duration::from_secs(9)));
        assert!(!health.is_resting(later + Duration::from_secs(11)));
        assert!(health.has_just_failed(later + Duration::from_secs(4)));
        assert!(!health.has_just_failed(later + Duration::from_secs(6)));
        for _ in 0..100 {
            health.failed(later);
        }
        assert!(!health.is_resting(later + Duration::from_secs(301)));
        health.succeeded();
        assert!(!health.is_resting(later));
        assert!(health.failed(later));
    }
}
