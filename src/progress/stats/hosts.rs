//! From which hosts one transfer comes. No IO; time is an argument.

use std::time::{Duration, Instant};

use super::super::text::{sanitize, size};
use crate::transfer::progress::ByHost;

/// A host counts as active for so long after its last byte: as long as rates are measured over.
const ACTIVE_WINDOW: Duration = Duration::from_secs(15);

/// How many hosts a line names; of more, it gives the number.
const MAX_NAMED: usize = 3;

/// The hosts of a transfer, with what each has sent.
#[derive(Debug)]
pub(in crate::progress) struct TransferHosts {
    sums: ByHost,
    /// What has come from all of them, as it was counted last.
    counted: u64,
    /// When each of them sent something last.
    latest: Vec<(String, Instant)>,
}

impl TransferHosts {
    /// Begins with this host; empty when that is not known.
    pub(in crate::progress) fn new(host: &str) -> Self {
        let mut sums = ByHost::default();
        sums.set_host(&sanitize(host));
        Self {
            sums,
            counted: 0,
            latest: Vec::new(),
        }
    }

    /// Records the number of bytes that have come in all.
    pub(in crate::progress) fn record(&mut self, done: u64, now: Instant) {
        match done.checked_sub(self.counted) {
            Some(0) => return,
            Some(more) => {
                self.sums.advance(more);
                if let Some(host) = self.sums.current() {
                    self.latest.retain(|(name, _)| name != host);
                    self.latest.push((host.to_owned(), now));
                }
            }
            None => self.sums.lose(self.counted - done),
        }
        self.counted = done;
    }

    /// What comes next, after so many bytes, comes from this host.
    pub(in crate::progress) fn set_host(&mut self, host: &str, done: u64, now: Instant) {
        self.record(done, now);
        self.sums.set_host(&sanitize(host));
    }

    /// Those that send: the one that is waited for, and all that have sent something lately.
    pub(in crate::progress) fn active(&self, now: Instant) -> Vec<&str> {
        let is_recent = |host: &str| {
            let latest = self.latest.iter().find(|(name, _)| name == host);
            latest.is_some_and(|(_, at)| now.duration_since(*at) < ACTIVE_WINDOW)
        };
        let senders = self.sums.sums().map(|(host, _)| host);
        let mut active: Vec<&str> = senders.filter(|host| is_recent(host)).collect();
        let current = self.sums.current();
        active.extend(current.filter(|host| !active.contains(host)));
        active
    }

    /// `a`, `a, b`, or with what each has sent `a (20.1 MiB), b (19.7 MiB)`; empty when that is not known.
    pub(in crate::progress) fn all(&self) -> String {
        by_host(&self.sums)
    }
}

/// Names for a line: all of them, or some and how many more there are.
pub(in crate::progress) fn names(hosts: &[&str]) -> String {
    match hosts.len() {
        0..=MAX_NAMED => hosts.join(", "),
        len => format!(
            "{} and {} more",
            hosts[..MAX_NAMED - 1].join(", "),
            len - MAX_NAMED + 1
        ),
    }
}

/// From where bytes came: the host, or all of them with how much each has sent.
pub fn by_host(sums: &ByHost) -> String {
    let all: Vec<_> = sums.sums().collect();
    match all[..] {
        [(host, _)] => host.to_owned(),
        _ => {
            let each = all
                .iter()
                .map(|(host, bytes)| format!("{host} ({})", size(*bytes)));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn all_that_send_are_named() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hosts = TransferHosts::new("a");
        assert_eq!(hosts.active(start), ["a"]);
        // The first to send something is another one than was expected.
        hosts.set_host("b", 0, at(1));
        assert_eq!(hosts.active(at(1)), ["b"]);
        hosts.set_host("a", 2 * MIB, at(2));
        hosts.set_host("b", 3 * MIB, at(3));
        hosts.record(5 * MIB, at(4));
        assert_eq!(hosts.active(at(4)), ["a", "b"]);
        assert_eq!(hosts.all(), "a (1.0 MiB), b (4.0 MiB)");
        // One that sends no more is not named for ever.
        hosts.record(6 * MIB, at(19));
        assert_eq!(hosts.active(at(19)), ["b"]);
        // What is dropped counts for nobody.
        hosts.record(MIB, at(20));
        assert_eq!(hosts.all(), "a");
        hosts.set_host("", MIB, at(40));
        assert!(hosts.active(at(40)).is_empty());
    }

    #[test]
    fn many_names_become_a_number() {
        assert_eq!(names(&[]), "");
        assert_eq!(names(&["a", "b", "c"]), "a, b, c");
        assert_eq!(names(&["a", "b", "c", "d"]), "a, b and 2 more");
    }
}
