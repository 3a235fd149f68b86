//! Which host is asked for a path next, and after which pause, when transfers break. Pure.
//!
//! What is limited is tries that bring nothing new: as long as each brings more of the NAR, however
//! often it breaks, the path goes on.
//!
//! | a try of one host ends | it is tried again |
//! | --- | --- |
//! | without a connection | once; while part of the NAR has been passed on already, four times |
//! | without new bytes | twice; once when the host fell silent, since that was waited for long enough |
//! | with new bytes | always, and what was counted before is forgotten |
//! | since it lacks the path or sent something wrong | never |

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pool::HostId;

/// RetryPolicy without a connection.
const CONNECTIONS: u32 = 2;

/// The same, when part of the NAR has been passed on: nobody else can bring the rest, and hosts that have
/// delivered are mostly back soon.
const CONNECTIONS_AMID: u32 = 5;

/// RetryPolicy without new bytes.
const FRUITLESS: u32 = 3;

/// The pause before a host is tried for the third time without having brought anything; then it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(8);

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptOutcome {
    NoConnection,
    Fruitless,
    /// Fruitless, and the host fell silent.
    Silent,
    WithNewBytes,
    /// This host is out.
    Unfit,
}

#[derive(Debug, Default, Clone, Copy)]
struct Record {
    no_connection: u32,
    fruitless: u32,
    /// How often it broke off with new bytes, one after the other.
    broke: u32,
    unfit: bool,
}

impl Record {
    /// RetryPolicy that brought nothing.
    fn in_vain(&self) -> u32 {
        self.no_connection + self.fruitless
    }

    fn is_out(&self, amid: bool) -> bool {
        let connections = if amid { CONNECTIONS_AMID } else { CONNECTIONS };
        self.unfit || self.no_connection >= connections || self.fruitless >= FRUITLESS
    }

    fn pause(&self) -> Duration {
        // The first time it may have been one connection only.
        let times = (self.in_vain() + self.broke).saturating_sub(1);
        match times.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (PAUSE * (1 << doublings.min(8))).min(LONGEST),
        }
    }
}

/// The tries of one path.
#[derive(Debug, Default)]
pub(super) struct RetryPolicy(BTreeMap<HostId, Record>);

impl RetryPolicy {
    fn record(&self, host: HostId) -> Record {
        self.0.get(&host).copied().unwrap_or_default()
    }

    /// Whether nothing is known of that host yet.
    pub(super) fn is_new(&self, host: HostId) -> bool {
        !self.0.contains_key(&host)
    }

    /// Which of `hosts`, given in order of preference, is tried next, and after which pause: the first of
    /// those that have failed least. `amid` says that part of the NAR has been passed on.
    pub(super) fn next(&self, hosts: &[HostId], amid: bool) -> Option<(HostId, Duration)> {
        let left = hosts
            .iter()
            .filter(|host| !self.record(**host).is_out(amid));
        let next = left.min_by_key(|host| self.record(**host).in_vain())?;
        Some((*next, self.record(*next).pause()))
    }

    /// A try has ended.
    pub(super) fn ended(&mut self, host: HostId, how: AttemptOutcome) {
        let record = self.0.entry(host).or_default();
        match how {
            AttemptOutcome::NoConnection => record.no_connection += 1,
            AttemptOutcome::Fruitless => record.fruitless += 1,
            AttemptOutcome::Silent => record.fruitless += 2,
            AttemptOutcome::WithNewBytes => {
                *record = Record {
                    broke: record.broke + 1,
                    ..Record::default()
                }
            }
            AttemptOutcome::Unfit => record.unfit = true,
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
        let (mut tries, [a, b]) = (RetryPolicy::default(), hosts());
        let mut order = Vec::new();
        while let Some((host, _)) = tries.next(&[a, b], false) {
            order.push(host);
            let how = if host == a {
                AttemptOutcome::NoConnection
            } else {
                AttemptOutcome::Fruitless
            };
            tries.ended(host, how);
        }
        assert_eq!(order, [a, b, a, b, b]);
        assert_eq!(tries.next(&[a, b], true).unwrap().0, a, "amid a NAR");
        tries.ended(b, AttemptOutcome::WithNewBytes);
        assert_eq!(tries.next(&[a, b], false).unwrap().0, b);
        tries.ended(b, AttemptOutcome::Silent);
        assert_eq!(tries.next(&[a, b], false).unwrap().0, b);
        tries.ended(b, AttemptOutcome::Silent);
        assert_eq!(tries.next(&[a, b], false), None);
        tries.ended(b, AttemptOutcome::WithNewBytes);
        tries.ended(b, AttemptOutcome::Unfit);
        assert_eq!(tries.next(&[a, b], false), None);
    }

    #[test]
    fn what_brings_something_goes_on_with_growing_pauses() {
        let (mut tries, [a, _]) = (RetryPolicy::default(), hosts());
        let mut pauses = Vec::new();
        for _ in 0..50 {
            let (host, pause) = tries.next(&[a], true).unwrap();
            pauses.push(pause);
            tries.ended(host, AttemptOutcome::WithNewBytes);
        }
        assert_eq!(pauses[..3], [Duration::ZERO, Duration::ZERO, PAUSE]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&LONGEST));
    }
}
