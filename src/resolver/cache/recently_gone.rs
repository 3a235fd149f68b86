//! Paths that hosts turned out not to have (any more), until the disk tier knows it too. Pure: the time is an
//! argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::StorePath;
use crate::pool::HostId;

/// For how long the disk tier may still say otherwise: far longer than a write takes.
const DISK_WRITE_TIME: Duration = Duration::from_secs(60);

/// How many are remembered: the latest ones.
const PATHS_MAX: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct RecentlyGone {
    since: HashMap<(HostId, StorePath), Instant>,
}

impl RecentlyGone {
    pub(super) fn insert(&mut self, host: HostId, path: &StorePath, now: Instant) {
        if self.since.len() >= PATHS_MAX {
            self.forget_old_ones(now);
        }
        self.since.insert((host, path.clone()), now);
    }

    /// Removes expired entries, and the older half if too many are left.
    fn forget_old_ones(&mut self, now: Instant) {
        let is_new = |since: &Instant| now.duration_since(*since) < DISK_WRITE_TIME;
        self.since.retain(|_, since| is_new(since));
        if self.since.len() > PATHS_MAX / 2 {
            let mut times: Vec<Instant> = self.since.values().copied().collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            self.since.retain(|_, since| *since > middle);
        }
    }

    pub(super) fn remove(&mut self, host: HostId, path: &StorePath) {
        if !self.since.is_empty() {
            self.since.remove(&(host, path.clone()));
        }
    }

    pub(super) fn contains(&self, host: HostId, path: &StorePath, now: Instant) -> bool {
        let since = self.since.get(&(host, path.clone()));
        since.is_some_and(|since| now.duration_since(*since) < DISK_WRITE_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: usize) -> StorePath {
        let path = format!("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-{number}");
        StorePath::parse(&path).unwrap()
    }

    #[test]
    fn it_is_remembered_for_a_while_and_never_grows_without_end() {
        let (mut gone, host, now) = (RecentlyGone::default(), HostId::at(0), Instant::now());
        gone.insert(host, &path(0), now);
        assert!(gone.contains(host, &path(0), now));
        assert!(!gone.contains(HostId::at(1), &path(0), now));
        assert!(!gone.contains(host, &path(0), now + DISK_WRITE_TIME));
        gone.remove(host, &path(0));
        assert!(!gone.contains(host, &path(0), now));
        for number in 0..3 * PATHS_MAX {
            let at = now + Duration::from_micros(number as u64);
            gone.insert(host, &path(number), at);
            assert!(gone.contains(host, &path(number), at));
            assert!(gone.since.len() <= PATHS_MAX, "{}", gone.since.len());
        }
        // All at the same moment, too.
        for number in 0..2 * PATHS_MAX {
            gone.insert(host, &path(number), now + Duration::from_secs(1));
            assert!(gone.since.len() <= PATHS_MAX, "{}", gone.since.len());
        }
    }
}
