//! Whether a host is worth asking: a circuit breaker. Pure: the time and the chance are arguments.
//!
//! ```text
//!            failure                        the pause is over
//! healthy ------------> resting until T --------------------> half-open
//!    ^                     ^                                      |  one request probes it
//!    |                     '----------- failure: a longer pause --|
//!    '------------------------------------------------- success --'
//! ```
//!
//! | failures in a row | pause, ±20 % by chance |
//! | --- | --- |
//! | 1, 2, 3, … | 5 s, 10 s, 20 s, … |
//! | 7 and more | 5 min |
//!
//! While every host rests, each is tried all the same, but not within 5 s of its last failure. A new
//! command that finds a path nowhere else probes a host that rests once, without waiting for the end
//! of its pause, and without making it longer. So does whoever finds a path nowhere else first after a
//! host has failed that had worked before: one line that broke hides no path.
//!
//! What outlives the process is a [`HealthRecord`] with times of the wall clock. Nothing in it is
//! believed further than the longest pause: clocks are set back, and files hold nonsense.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::HealthRecord;
use crate::pool::backoff::exponential;

/// How long a host is left alone after its first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause, before chance has its say.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How far chance moves a pause either way: a fifth. Processes that saw a host fail together shall
/// not all come back together.
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
    /// By one, to find out.
    HalfOpen,
    /// Not now, unless nobody else is left: it is being found out, or the pause lasts.
    Resting,
    /// Never: it failed less than 5 s ago.
    JustFailed,
}

/// What is remembered of a host's failures.
#[derive(Debug, Default)]
pub(in crate::pool) struct CircuitBreaker {
    failures: u32,
    /// In milliseconds of Unix time; for the record.
    last_failure: u64,
    /// The same by the other clock.
    failed_at: Option<Instant>,
    just_failed_until: Option<Instant>,
    rest_until: Option<Instant>,
    probe: Option<ProbeKind>,
}

/// Why one finds out whether a host is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeKind {
    /// Its pause is over.
    Due,
    /// Nobody else can be asked, and somebody new asks, or it had worked before. A failure makes no pause longer.
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

    /// Whether somebody has that right just now.
    pub(in crate::pool) fn is_probed_early(&self) -> bool {
        self.probe == Some(ProbeKind::Early)
    }

    /// How long ago it failed last.
    pub(in crate::pool) fn since_failure(&self, now: Instant) -> Duration {
        self.failed_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// The probe ended, whatever came of it.
    pub(in crate::pool) fn end_probe(&mut self) {
        self.probe = None;
    }

    /// It failed; `random` is any number, each as likely as the others. Whether this counts: when
    /// one fault breaks several connections, they report within moments, and that is one failure.
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
        let chance = f64::from(random) / f64::from(u32::MAX);
        let pause = pause(self.failures).mul_f64(1.0 - JITTER + 2.0 * JITTER * chance);
        self.rest_until = Some(now.instant + pause);
        self.probe = None;
        true
    }

    /// It did what was asked. Whether that is news.
    pub(in crate::pool) fn record_success(&mut self) -> bool {
        let news = self.failures > 0;
        *self = Self::default();
        news
    }

    pub(in crate::pool) fn has_failures(&self) -> bool {
        self.failures > 0
    }

    /// What other processes shall know.
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

    /// Learns from another process, if that has seen the host fail later than we have. The longer
    /// of the two pauses holds.
    pub(in crate::pool) fn merge(&mut self, record: &HealthRecord, now: Now) {
        // A failure that is yet to come happened before the clock was set back, or never.
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
        // Nothing earlier than the clock's own beginning.
        let failed_at = now.instant.checked_sub(since).unwrap_or(now.instant);
        self.failed_at = self.failed_at.max(Some(failed_at));
        self.rest_until = self.rest_until.max(Some(now.instant + rest));
        self.just_failed_until = self.just_failed_until.max(Some(now.instant + just_failed));
    }
}

/// The pause after that many failures in a row, without chance.
fn pause(failures: u32) -> Duration {
    exponential(FIRST_PAUSE, LONGEST_PAUSE, failures)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
