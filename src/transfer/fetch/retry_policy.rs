//! Which host is asked for a path next, and after which pause, when transfers break. Pure.
//!
//! Only attempts without new bytes are limited. As long as each one brings more of the NAR, the transfer goes on,
//! however often it breaks.
//!
//! | an attempt with a host ends | the host is tried again |
//! | --- | --- |
//! | without a connection | once; four times while part of the NAR has been passed on already |
//! | without new bytes | twice; once when the host fell silent, since the silence was waited for already |
//! | with new bytes | always, and earlier failures are forgotten |
//! | because it lacks the path or sent something wrong | never |

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pool::HostId;

/// How many attempts may end without a connection.
const MAX_NO_CONNECTION: u32 = 2;

/// The same, once part of the NAR has been passed on: no other host can bring the rest, and hosts that have
/// delivered are mostly back soon.
const MAX_NO_CONNECTION_AMID: u32 = 5;

/// How many attempts may end without new bytes.
const MAX_NO_NEW_BYTES: u32 = 3;

/// The pause before a host is tried for the third time without having brought anything; then it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptOutcome {
    NoConnection,
    NoNewBytes,
    /// No new bytes, and the host fell silent.
    Silent,
    NewBytes,
    /// The host is not asked again.
    Excluded,
}

#[derive(Debug, Default, Clone, Copy)]
struct HostAttempts {
    no_connection: u32,
    no_new_bytes: u32,
    /// How often in a row it broke off after new bytes.
    interrupted: u32,
    excluded: bool,
}

impl HostAttempts {
    /// Attempts that brought nothing.
    fn without_new_bytes(&self) -> u32 {
        self.no_connection + self.no_new_bytes
    }

    fn is_excluded(&self, amid: bool) -> bool {
        let connections = if amid {
            MAX_NO_CONNECTION_AMID
        } else {
            MAX_NO_CONNECTION
        };
        self.excluded || self.no_connection >= connections || self.no_new_bytes >= MAX_NO_NEW_BYTES
    }

    fn pause(&self) -> Duration {
        // The first time it may have been one connection only.
        let times = (self.without_new_bytes() + self.interrupted).saturating_sub(1);
        match times.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (FIRST_PAUSE * (1 << doublings.min(8))).min(MAX_PAUSE),
        }
    }
}

/// The attempts of one path so far.
#[derive(Debug, Default)]
pub(super) struct RetryPolicy(BTreeMap<HostId, HostAttempts>);

impl RetryPolicy {
    fn attempts(&self, host: HostId) -> HostAttempts {
        self.0.get(&host).copied().unwrap_or_default()
    }

    /// Whether an attempt ended with [`AttemptOutcome::Excluded`].
    pub(super) fn is_excluded(&self, host: HostId) -> bool {
        self.attempts(host).excluded
    }

    /// Which of `hosts`, given in order of preference, is tried next, and after which pause: the first of
    /// those that have failed least. `amid` says that part of the NAR has been passed on.
    pub(super) fn next(&self, hosts: &[HostId], amid: bool) -> Option<(HostId, Duration)> {
        let left = hosts
            .iter()
            .filter(|host| !self.attempts(**host).is_excluded(amid));
        let next = left.min_by_key(|host| self.attempts(**host).without_new_bytes())?;
        Some((*next, self.attempts(*next).pause()))
    }

    /// An attempt has ended.
    pub(super) fn record(&mut self, host: HostId, outcome: AttemptOutcome) {
        let attempts = self.0.entry(host).or_default();
        match outcome {
            AttemptOutcome::NoConnection => attempts.no_connection += 1,
            AttemptOutcome::NoNewBytes => attempts.no_new_bytes += 1,
            AttemptOutcome::Silent => attempts.no_new_bytes += 2,
            AttemptOutcome::NewBytes => {
                *attempts = HostAttempts {
                    interrupted: attempts.interrupted + 1,
                    ..HostAttempts::default()
                }
            }
            AttemptOutcome::Excluded => attempts.excluded = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> [HostId; 2] {
        [0, 1].map(HostId::at)
    }

    #[test]
    fn each_is_tried_in_turn_until_nothing_comes_of_it() {
        let (mut retries, [a, b]) = (RetryPolicy::default(), hosts());
        let mut order = Vec::new();
        while let Some((host, _)) = retries.next(&[a, b], false) {
            order.push(host);
            let how = if host == a {
                AttemptOutcome::NoConnection
            } else {
                AttemptOutcome::NoNewBytes
            };
            retries.record(host, how);
        }
        assert_eq!(order, [a, b, a, b, b]);
        assert_eq!(retries.next(&[a, b], true).unwrap().0, a, "amid a NAR");
        retries.record(b, AttemptOutcome::NewBytes);
        assert_eq!(retries.next(&[a, b], false).unwrap().0, b);
        retries.record(b, AttemptOutcome::Silent);
        assert_eq!(retries.next(&[a, b], false).unwrap().0, b);
        retries.record(b, AttemptOutcome::Silent);
        assert_eq!(retries.next(&[a, b], false), None);
        retries.record(b, AttemptOutcome::NewBytes);
        retries.record(b, AttemptOutcome::Excluded);
        assert_eq!(retries.next(&[a, b], false), None);
    }

    #[test]
    fn what_brings_something_goes_on_with_growing_pauses() {
        let (mut retries, [a, _]) = (RetryPolicy::default(), hosts());
        let mut pauses = Vec::new();
        for _ in 0..50 {
            let (host, pause) = retries.next(&[a], true).unwrap();
            pauses.push(pause);
            retries.record(host, AttemptOutcome::NewBytes);
        }
        assert_eq!(pauses[..3], [Duration::ZERO, Duration::ZERO, FIRST_PAUSE]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&MAX_PAUSE));
    }
}
