//! From which hosts one transfer comes. No IO; time is an argument.

use std::time::{Duration, Instant};

use super::sanitize;
use super::text::size;
use crate::transfer::progress::ByHost;

/// A host counts as one that sends for so long after its last byte. Rates are those of the same time.
const RECENT: Duration = Duration::from_secs(15);

/// So many hosts are named, and of more than that how many they are.
const NAMED: usize = 3;

/// The hosts of a transfer, with what each has sent.
#[derive(Debug)]
pub(super) struct Sources {
    sums: ByHost,
    /// What has come from all of them, as it was counted last.
    counted: u64,
    /// When each of them sent something last.
    latest: Vec<(String, Instant)>,
}

impl Sources {
    /// Begins with this host; empty when nobody knows.
    pub(super) fn new(host: &str) -> Self {
        let mut sums = ByHost::default();
        sums.set_host(&sanitize(host));
        Self {
            sums,
            counted: 0,
            latest: Vec::new(),
        }
    }

    /// Takes note of the number of bytes that have come in all.
    pub(super) fn count(&mut self, done: u64, now: Instant) {
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
    pub(super) fn set_host(&mut self, host: &str, done: u64, now: Instant) {
        self.count(done, now);
        self.sums.set_host(&sanitize(host));
    }

    /// Those that send: the one that is waited for, and all that have sent something lately.
    pub(super) fn active(&self, now: Instant) -> Vec<&str> {
        let is_recent = |host: &str| {
            let latest = self.latest.iter().find(|(name, _)| name == host);
            latest.is_some_and(|(_, at)| now.duration_since(*at) < RECENT)
        };
        let senders = self.sums.sums().map(|(host, _)| host);
        let mut active: Vec<&str> = senders.filter(|host| is_recent(host)).collect();
        let current = self.sums.current();
        active.extend(current.filter(|host| !active.contains(host)));
        active
    }

    /// `a`, `a, b`, or with what each has sent `a (20.1 MiB), b (19.7 MiB)`; empty when nobody knows.
    pub(super) fn all(&self) -> String {
        by_host(&self.sums)
    }
}

/// Names for a line: all of them, or some and how many more there are.
pub(super) fn names(hosts: &[&str]) -> String {
    match hosts.len() {
        0..=NAMED => hosts.join(", "),
        len => format!(
            "{} and {} more",
            hosts[..NAMED - 1].join(", "),
            len - NAMED + 1
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
        let mut sources = Sources::new("a");
        assert_eq!(sources.active(start), ["a"]);
        // The first to send something is another one than was expected.
        sources.set_host("b", 0, at(1));
        assert_eq!(sources.active(at(1)), ["b"]);
        sources.set_host("a", 2 * MIB, at(2));
        sources.set_host("b", 3 * MIB, at(3));
        sources.count(5 * MIB, at(4));
        assert_eq!(sources.active(at(4)), ["a", "b"]);
        assert_eq!(sources.all(), "a (1.0 MiB), b (4.0 MiB)");
        // One that sends no more is not named for ever.
        sources.count(6 * MIB, at(19));
        assert_eq!(sources.active(at(19)), ["b"]);
        // What is dropped counts for nobody.
        sources.count(MIB, at(20));
        assert_eq!(sources.all(), "a");
        sources.set_host("", MIB, at(40));
        assert!(sources.active(at(40)).is_empty());
    }

    #[test]
    fn many_names_become_a_number() {
        assert_eq!(names(&[]), "");
        assert_eq!(names(&["a", "b", "c"]), "a, b, c");
        assert_eq!(names(&["a", "b", "c", "d"]), "a, b and 2 more");
    }
}
