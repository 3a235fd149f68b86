//! Whether a host is worth asking: a circuit breaker. Pure: time and random numbers are arguments.
//!
//! ```text
//!            failure                        the pause is over
//! healthy ------------> resting until T --------------------> half-open
//!    ^                     ^                                      |  one request probes it
//!    |                     '----------- failure: a longer pause --|
//!    '------------------------------------------------- success --'
//! ```
//!
//! | failures in a row | pause, with ±20 % jitter |
//! | --- | --- |
//! | 1, 2, 3, … | 5 s, 10 s, 20 s, … |
//! | 7 and more | 5 min |
//!
//! While every host rests, each is tried all the same, but not within 5 s of its last failure. A resting
//! host is probed early, before its pause is over, when a path is found nowhere else: once by each new
//! command, and once after each failure of a host that had worked before, so that one broken connection hides
//! no path. A failed early probe makes the pause no longer.
//!
//! A [`HealthRecord`] with times of the wall clock outlives the process. It is believed no further than the
//! longest pause: clocks are set back, and files may hold nonsense.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::HealthRecord;
use crate::pool::backoff::exponential;

/// How long a host is left alone after its first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause, without jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The jitter of a pause, as a fraction of it either way. Processes that saw a host fail together must not
/// all come back together.
const JITTER: f64 = 0.2;

/// A record whose pause has been over for this long says nothing about today.
const STALE_MS: u64 = 3_600_000;

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Now {
    pub(in crate::pool) instant: Instant,
    /// Milliseconds of Unix time.
    pub(in crate::pool) unix: u64,
}

/// The record of a host that may be failing, or is only slow to let us in: not a failure, so that it is
/// asked all the same, but nothing to wait for.
pub(super) fn doubt_record(now: Now) -> HealthRecord {
    HealthRecord {
        failures: 0,
        last_failure: now.unix,
        rest_until: 0,
    }
}

/// Whether a record is such a one, as of lately.
pub(super) fn is_doubt(record: &HealthRecord, now: Now) -> bool {
    let since = now.unix.saturating_sub(record.last_failure);
    record.failures == 0 && record.last_failure > 0 && since < STALE_MS
}

/// Whether a host may be asked. The order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::pool) enum Standing {
    /// Always.
    Healthy,
    /// By one request, which probes it.
    HalfOpen,
    /// Only if nobody else is left: it is being probed, or the pause lasts.
    Resting,
    /// Never: it failed less than 5 s ago.
    JustFailed,
}

/// The breaker of one host.
#[derive(Debug, Default)]
pub(in crate::pool) struct CircuitBreaker {
    failures: u32,
    /// In milliseconds of Unix time; for the record.
    last_failure: u64,
    /// The same by the monotonic clock.
    failed_at: Option<Instant>,
    just_failed_until: Option<Instant>,
    rest_until: Option<Instant>,
    probe: Option<ProbeKind>,
}

/// Why a host is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeKind {
    /// Its pause is over.
    Due,
    /// Its pause is not over, but a path was found nowhere else. A failure makes the pause no longer.
    Early,
}

impl CircuitBreaker {
    pub(in crate::pool) fn standing(&self, now: Instant) -> Standing {
        let before = |until: Option<Instant>| until.is_some_and(|until| now < until);
        if self.failures == 0 {
            Standing::Healthy
        } else if !before(self.rest_until) {
            match self.probe {
                Some(_) => Standing::Resting,
                None => Standing::HalfOpen,
            }
        } else if before(self.just_failed_until) {
            Standing::JustFailed
        } else {
            Standing::Resting
        }
    }

    /// Takes the right to probe a half-open host; whether it was there to be taken.
    pub(in crate::pool) fn start_probe(&mut self, now: Instant) -> bool {
        let free = self.standing(now) == Standing::HalfOpen;
        if free {
            self.probe = Some(ProbeKind::Due);
        }
        free
    }

    /// Takes the right to probe a host before its pause is over; whether it was there to be taken.
    pub(in crate::pool) fn start_early_probe(&mut self) -> bool {
        let free = self.failures > 0 && self.probe.is_none();
        if free {
            self.probe = Some(ProbeKind::Early);
        }
        free
    }

    /// Whether it is being probed.
    pub(in crate::pool) fn is_probed(&self) -> bool {
        self.probe.is_some()
    }

    /// Whether it is being probed early.
    pub(in crate::pool) fn is_probed_early(&self) -> bool {
        self.probe == Some(ProbeKind::Early)
    }

    /// How long ago it failed last.
    pub(in crate::pool) fn since_failure(&self, now: Instant) -> Duration {
        self.failed_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// The probe ended, whatever its outcome.
    pub(in crate::pool) fn end_probe(&mut self) {
        self.probe = None;
    }

    /// It failed; `random` is uniformly distributed. Whether this counts: one fault that breaks several
    /// connections is reported several times within moments, and is one failure.
    pub(in crate::pool) fn record_failure(&mut self, now: Now, random: u32) -> bool {
        if self.probe == Some(ProbeKind::Early) {
            self.probe = None;
            self.failed_at = Some(now.instant);
            self.just_failed_until = Some(now.instant + FIRST_PAUSE);
            return false;
        }
        if self.standing(now.instant) == Standing::JustFailed {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_failure = now.unix;
        self.failed_at = Some(now.instant);
        self.just_failed_until = Some(now.instant + FIRST_PAUSE);
        let fraction = f64::from(random) / f64::from(u32::MAX);
        let pause = pause(self.failures).mul_f64(1.0 - JITTER + 2.0 * JITTER * fraction);
        self.rest_until = Some(now.instant + pause);
        self.probe = None;
        true
    }

    /// It did what was asked. Whether it had failures.
    pub(in crate::pool) fn record_success(&mut self) -> bool {
        let had_failures = self.failures > 0;
        *self = Self::default();
        had_failures
    }

    pub(in crate::pool) fn has_failures(&self) -> bool {
        self.failures > 0
    }

    /// What other processes have to know.
    pub(in crate::pool) fn record(&self, now: Now) -> HealthRecord {
        let rest = self
            .rest_until
            .map_or(Duration::ZERO, |until| until.duration_since(now.instant));
        if self.failures == 0 {
            return HealthRecord::default();
        }
        HealthRecord {
            failures: self.failures,
            last_failure: self.last_failure,
            rest_until: now.unix.saturating_add(millis(rest)),
        }
    }

    /// Takes in the record of another process, if that has seen a later failure. The longer of the two pauses
    /// holds.
    pub(in crate::pool) fn merge(&mut self, record: &HealthRecord, now: Now) {
        // A failure in the future happened before the clock was set back, or never.
        let last_failure = record.last_failure.min(now.unix);
        let stale = now.unix.saturating_sub(record.rest_until) > STALE_MS;
        if record.failures == 0 || stale || last_failure <= self.last_failure {
            return;
        }
        let longest = pause(record.failures).mul_f64(1.0 + JITTER);
        let pause = record.rest_until.saturating_sub(record.last_failure);
        let left = record.rest_until.saturating_sub(now.unix).min(pause);
        let rest = Duration::from_millis(left).min(longest);
        let since = Duration::from_millis(now.unix - last_failure);
        let just_failed = FIRST_PAUSE.saturating_sub(since);
        self.failures = self.failures.max(record.failures);
        self.last_failure = last_failure;
        // The monotonic clock cannot go back before its own beginning.
        let failed_at = now.instant.checked_sub(since).unwrap_or(now.instant);
        self.failed_at = self.failed_at.max(Some(failed_at));
        self.rest_until = self.rest_until.max(Some(now.instant + rest));
        self.just_failed_until = self.just_failed_until.max(Some(now.instant + just_failed));
    }
}

/// The pause after that many failures in a row, without jitter.
fn pause(failures: u32) -> Duration {
    exponential(FIRST_PAUSE, LONGEST_PAUSE, failures)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
