//! Checks whether hosts still have what is remembered of them, so that no path is advertised that cannot be
//! delivered.
//!
//! The info of a path may be remembered for long, but not that a host has it: paths are garbage-collected and
//! built, and hosts go out of reach. Before a path is advertised, each host that may be asked is asked which
//! paths it has, in one request for all that is remembered of the closure. Other questions about these paths
//! wait for the same request.

mod recheck;

use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ResolverCore;
use super::cache::{AnswerKind, HostAnswer, PathRecord};
use crate::cache::disk::unix_seconds;
use crate::model::StorePath;
use crate::pool::{Askable, HostId};
pub(super) use recheck::Recheck;

/// How many paths one request asks for.
const PATHS_MAX: usize = 20_000;

/// Longer than any request takes, which has time limits of its own.
const CHECK_END: Duration = Duration::from_secs(3600);

/// The requests in flight.
#[derive(Default)]
pub(super) struct Checks {
    in_flight: Mutex<Vec<Arc<Check>>>,
}

struct Check {
    host: HostId,
    paths: HashSet<StorePath>,
    begun: Instant,
}

/// What a question has to wait for, of the checks of its path.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// One of them may answer it. To be looked at again at this time, or when something has changed.
    pub(super) until: Option<Instant>,
    /// Hosts that have held up another one's answer for the hedge delay.
    pub(super) late: BTreeSet<HostId>,
}

impl Checks {
    /// Hosts that are being asked for a path.
    pub(super) fn under_way(&self, path: &StorePath) -> Vec<HostId> {
        let in_flight = self.in_flight.lock();
        let mine = in_flight.iter().filter(|check| check.paths.contains(path));
        mine.map(|check| check.host).collect()
    }
}

impl ResolverCore {
    /// Whether the path may be advertised on the strength of this answer. A failed transfer does not put the
    /// host out of reach as long as other connections stand.
    pub(super) fn is_promise(&self, answer: &HostAnswer) -> bool {
        let has = matches!(answer.kind, AnswerKind::Has(_));
        let in_reach = || self.pool.is_well(answer.host) || self.pool.is_connected(answer.host);
        has && self.cache.is_checked(answer) && in_reach()
    }

    /// Whether the host has to be asked before this answer counts. An answer to an earlier process, or over a
    /// connection that is closed, does not show that the host can be reached.
    pub(super) fn is_due(&self, answer: &HostAnswer) -> bool {
        if !self.cache.is_checked(answer) {
            return true;
        }
        matches!(answer.kind, AnswerKind::Has(_) | AnswerKind::Unverified(_))
            && !self.cache.lifetimes().is_set(true)
            && !self.pool.is_connected(answer.host)
    }

    /// Which checks to wait for. With a `holder`, hosts before it in the order may hold up its answer for the
    /// hedge delay. With `others`, which were not asked yet, these are asked after that time. Otherwise only
    /// the checks can answer.
    pub(super) fn pending_checks(
        &self,
        path: &StorePath,
        holder: Option<HostId>,
        others: bool,
    ) -> Pending {
        let mut pending = Pending::default();
        let now = Instant::now();
        for check in &*self.checks.in_flight.lock() {
            let before = |holder| check.host < holder && self.pool.is_waited_for(check.host);
            if holder.is_some_and(|holder| !before(holder)) || !check.paths.contains(path) {
                continue;
            }
            let hedge = check.begun + self.pool.hedge();
            let until = match holder.is_some() || others {
                false => check.begun + CHECK_END,
                true => hedge,
            };
            if until > now {
                pending.until = Some(pending.until.map_or(until, |other| until.min(other)));
            } else if holder.is_some() {
                pending.late.insert(check.host);
            }
        }
        pending
    }

    /// Asks the hosts which of these paths and their known references they have, as far as answers are
    /// remembered and no check of them is in flight.
    pub(super) async fn start_checks(self: &Arc<Self>, paths: &[StorePath]) {
        let mut due = self.due(paths);
        if due.is_empty() {
            return;
        }
        let hosts: Vec<HostId> = due.keys().copied().collect();
        let hosts = self.pool.askable_hosts(|host| hosts.contains(&host)).await;
        for host in hosts {
            let Some(paths) = due.remove(&host.host()) else {
                continue;
            };
            let check = {
                let mut in_flight = self.checks.in_flight.lock();
                let is_asked = |path: &StorePath| {
                    let mut others = in_flight.iter();
                    others.any(|other| other.host == host.host() && other.paths.contains(path))
                };
                let paths: HashSet<_> = paths.into_iter().filter(|path| !is_asked(path)).collect();
                let check = Arc::new(Check {
                    host: host.host(),
                    paths,
                    begun: Instant::now(),
                });
                if check.paths.is_empty() {
                    continue;
                }
                in_flight.push(check.clone());
                check
            };
            let task = CheckTask {
                core: self.clone(),
                check,
            };
            tokio::spawn(task.run(host));
        }
    }

    /// The paths that each host has to be asked for.
    fn due(&self, paths: &[StorePath]) -> HashMap<HostId, BTreeSet<StorePath>> {
        let connected: HashMap<HostId, bool> = self
            .pool
            .hosts()
            .map(|host| (host, self.pool.is_connected(host)))
            .collect();
        let set = self.cache.lifetimes().is_set(true);
        let is_due = |answer: &&HostAnswer| {
            let there = answer.kind.info().is_some();
            let unseen = there && !set && !connected[&answer.host];
            unseen || !self.cache.is_checked(answer)
        };
        let mut due: HashMap<HostId, BTreeSet<StorePath>> = HashMap::new();
        let mut seen: HashSet<StorePath> = paths.iter().cloned().collect();
        let mut open: VecDeque<StorePath> = seen.iter().cloned().collect();
        while let Some(path) = open.pop_front() {
            let Some(known) = self.cache.get_unverified(&path) else {
                continue;
            };
            for answer in known.answers().iter().filter(is_due) {
                let mine = due.entry(answer.host).or_default();
                if mine.len() < PATHS_MAX {
                    mine.insert(path.clone());
                }
            }
            for reference in references(&known) {
                if seen.len() < PATHS_MAX && seen.insert(reference.clone()) {
                    open.push_back(reference.clone());
                }
            }
        }
        due
    }

    /// Records which of the `asked` paths a host has now.
    pub(super) fn record_check(
        &self,
        host: HostId,
        asked: &[StorePath],
        there: &[StorePath],
        asked_at: u64,
    ) {
        let there: HashSet<&StorePath> = there.iter().collect();
        let changed = self.cache.record_check(host, asked, &there, asked_at);
        if !changed.is_empty() {
            let host_name = self.pool.host(host);
            log::debug!("{host_name}: {} paths have come or gone", changed.len());
            self.prefetches.invalidate(host, &changed);
        }
    }
}

/// The references of a path, by the first host that has it.
fn references(known: &PathRecord) -> &[StorePath] {
    let info = known.answers().iter().find_map(|answer| answer.kind.info());
    info.map_or(&[], |info| &info.references)
}

/// A request in flight, until this is dropped.
struct CheckTask {
    core: Arc<ResolverCore>,
    check: Arc<Check>,
}

impl CheckTask {
    async fn run(self, host: Askable) {
        let (core, id) = (&self.core, host.host());
        let mut paths: Vec<StorePath> = self.check.paths.iter().cloned().collect();
        paths.sort();
        let (paths, asked_at) = (Arc::from(paths), unix_seconds());
        // A failure has been recorded and reported by the pool.
        if let Ok(there) = host.valid_paths(&paths).await {
            core.record_check(id, &paths, &there, asked_at);
        }
    }
}

impl Drop for CheckTask {
    fn drop(&mut self) {
        let mut in_flight = self.core.checks.in_flight.lock();
        in_flight.retain(|other| !Arc::ptr_eq(other, &self.check));
        drop(in_flight);
        self.core.prefetches.notify();
    }
}
