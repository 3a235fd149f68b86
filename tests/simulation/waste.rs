//! How many bytes may be fetched in vain: see [`rules`](super::rules).

use std::time::Duration;

use super::caller::Why;
use super::plan;
use super::rules::{Judge, WHOLE};

/// Bytes that may be fetched in vain anyhow: less than what one channel may have on its way.
const SLACK: u64 = 128 << 10;

/// What is asked of one channel at once of a NAR that comes in chunks, in bytes.
const PART: u64 = 2 << 20;

/// So many channels may all be in use.
const FEW: usize = 2;

/// Who takes nothing for so long may lose its channel to others, and mostly gets all once more then.
const LONG_PAUSE: Duration = Duration::from_secs(3);

impl Judge<'_> {
    pub fn waste(&self) -> Option<String> {
        let size = |at: usize| self.plan.paths[at].item.size();
        let mut useful = 0;
        for outcome in self.outcomes {
            useful += match outcome.result {
                Ok(()) => size(outcome.path),
                // What each holder sent until it was known.
                Err(Why::Failed(_)) => size(outcome.path) * self.plan.hosts.len() as u64,
                _ => 0,
            };
        }
        for caller in self
            .plan
            .callers
            .iter()
            .filter(|caller| caller.vanishes_at.is_some())
        {
            // It may all have been read ahead.
            useful += caller.fetches.concat().into_iter().map(size).sum::<u64>();
        }
        let tenths = if self.plan.has_faults() { 15 } else { 11 };
        let spoilt = self.spoilt();
        let excused = self.lost
            + spoilt
            + self.overtaken()
            + self.given_up()
            + self.collected()
            + self.resent()
            + self.patched_in_vain()
            + self.lost_on_disk();
        let most = useful * tenths / 10 + excused + SLACK;
        (self.sent > most).then(|| {
            let Self { sent, lost, .. } = self;
            format!("{sent} bytes were fetched, {useful} useful, {lost} lost, {spoilt} spoilt ones")
        })
    }

    /// A part that a slow host has begun to send may come from a quicker one too.
    fn overtaken(&self) -> u64 {
        let large = |path: &plan::Path| path.item.size() >= WHOLE;
        match self.plan.paths.iter().any(large) {
            true => PART * self.plan.hosts.len() as u64,
            false => 0,
        }
    }

    /// A large path that is collected amid its transfer costs each of its channels the chunk that it was sending.
    fn collected(&self) -> u64 {
        let large = |path: usize| self.plan.paths[path].item.size() >= WHOLE;
        let channels = self.plan.hosts.iter().map(|host| {
            let copies = host.copies.iter();
            let collected = copies.filter(|copy| large(copy.path) && copy.until.is_some());
            (collected.count() * host.max_connections) as u64
        });
        PART * channels.sum::<u64>()
    }

    /// After an outage the host may have no shell at first, and a plain dump begins at the first byte.
    fn resent(&self) -> u64 {
        let sizes = self.plan.paths.iter().map(|path| path.item.size());
        let largest = sizes.filter(|size| *size >= WHOLE).max().unwrap_or(0);
        let outages = self.plan.hosts.iter().map(|host| host.outages.len() as u64);
        largest * outages.sum::<u64>()
    }

    /// What is put together from another version that has changed or gone comes once more in another way, for each who fetches
    /// it.
    fn patched_in_vain(&self) -> u64 {
        let bases = self.plan.bases.iter().flat_map(|bases| &bases.bases);
        let bad = bases.filter(|base| base.is_bad());
        let all = bad.map(|base| {
            let fetches = self
                .outcomes
                .iter()
                .filter(|outcome| outcome.path == base.path);
            self.plan.paths[base.path].item.size() * fetches.count() as u64
        });
        all.sum()
    }

    /// What was read ahead on a disk that fails comes again.
    fn lost_on_disk(&self) -> u64 {
        if self.plan.disk.fault.is_none() {
            return 0;
        }
        let sizes = self.outcomes.iter();
        let sizes = sizes.map(|outcome| self.plan.paths[outcome.path].item.size());
        sizes.filter(|size| *size >= WHOLE).sum()
    }

    /// What others need a channel for, where there are few, comes again to one who pauses amid a large path.
    fn given_up(&self) -> u64 {
        let is_small = |host: &plan::Host| host.sessions.min(host.max_connections) <= FEW;
        if !self.plan.hosts.iter().any(is_small) {
            return 0;
        }
        let pauses = |caller: &&plan::Caller| {
            let pause = caller.pause.map(|(_, pause)| pause);
            pause.is_some_and(|pause| pause >= LONG_PAUSE)
        };
        let connections = self.plan.callers.iter().filter(pauses);
        let largest = |fetches: &Vec<usize>| {
            let sizes = fetches.iter().map(|at| self.plan.paths[*at].item.size());
            sizes.filter(|size| *size >= WHOLE).max().unwrap_or(0)
        };
        connections
            .flat_map(|caller| &caller.fetches)
            .map(largest)
            .sum()
    }

    /// What comes wrongly is known to at its end, by each who fetches it.
    fn spoilt(&self) -> u64 {
        let copies = self.plan.hosts.iter().flat_map(|host| &host.copies);
        let wrong = copies.filter(|copy| copy.wrong.is_some());
        let all = wrong.map(|copy| {
            let fetches = self
                .outcomes
                .iter()
                .filter(|outcome| outcome.path == copy.path);
            self.plan.paths[copy.path].item.size() * fetches.count() as u64
        });
        all.sum()
    }
}
