//! Prefetch of path infos: a caller that asks for a path comes for its closure. When a host has answered that
//! it has a path, it is asked in the background for the whole closure and all infos in it, those of its references at once, so
//! that the next questions are answered from memory.
//!
//! Each host that has the path is asked, so that the holders of each path are known. A question that comes
//! meanwhile waits for the prefetch, within limits. A failure here does no harm: the question is then asked as
//! any other.

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::ResolverCore;
use super::cache::PathRecord;
use crate::cache::disk::unix_seconds;
use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, RemoteError, Verdict};
use crate::watch;

/// How long a question waits for the closure, which tells whether its path is prefetched.
const CLOSURE_WAIT: Duration = Duration::from_secs(1);

/// How long a question waits for the next prefetched infos.
const INFOS_WAIT: Duration = Duration::from_secs(2);

/// How many infos are prefetched for one closure. Others are asked for when they are needed.
const INFOS_MAX: usize = 20_000;

/// How many references the prefetched infos of one closure may have altogether.
const REFERENCES_MAX: usize = 500_000;

/// Infos in one question: the first ones are of use before all have come.
const PATHS_PER_QUESTION: usize = 2_000;

/// How many roots a prefetch may have. A caller that asks for more knows the closure already.
const ROOTS_MAX: usize = 2_000;

/// For how many paths of each host it is remembered that they were prefetched.
const PREFETCHED_MAX: usize = 200_000;

/// The prefetches in flight.
pub(super) struct Prefetches {
    in_flight: Mutex<Vec<Arc<Prefetch>>>,
    queues: Vec<HostQueue>,
    changed: watch::Sender<()>,
    off: AtomicBool,
}

/// One host's prefetches, one at a time.
#[derive(Default)]
struct HostQueue {
    /// Held by the prefetch that runs. The next ones may find their paths prefetched by then.
    turn: tokio::sync::Mutex<()>,
    /// Paths that need no further prefetch; `true` for those whose closure has come.
    prefetched: Mutex<HashMap<StorePath, bool>>,
}

struct Prefetch {
    host: HostId,
    roots: Vec<StorePath>,
    /// What these refer to. Their infos are asked for together with the closure, which has to come before any other's.
    references: Vec<StorePath>,
    begun: Instant,
    phase: Mutex<Phase>,
}

#[derive(Clone, Default)]
struct Phase {
    /// `None` until it has come.
    closure: Option<Closure>,
    /// Since when another host has delivered infos that this one has not yet.
    overtaken: Option<Instant>,
}

#[derive(Clone)]
struct Closure {
    whole: Arc<Vec<StorePath>>,
    /// What is being asked for.
    wanted: Arc<HashSet<StorePath>>,
    /// When the last of it came.
    latest: Instant,
}

impl Prefetches {
    pub(super) fn new(hosts: usize) -> Self {
        Self {
            in_flight: Mutex::default(),
            queues: (0..hosts).map(|_| HostQueue::default()).collect(),
            changed: watch::Sender::new(()),
            off: AtomicBool::new(false),
        }
    }

    pub(super) fn switch_off(&self) {
        self.off.store(true, Ordering::Relaxed);
    }

    /// Notified when a prefetch or check has made progress.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Wakes the questions that wait.
    pub(super) fn notify(&self) {
        self.changed.send_modify(|()| {});
    }

    /// These paths appeared at a host or went from it: their closures have to be prefetched anew.
    pub(super) fn invalidate(&self, host: HostId, paths: &[StorePath]) {
        let mut prefetched = self.queues[host.index()].prefetched.lock();
        for path in paths {
            prefetched.remove(path);
        }
    }

    /// The same for all paths of a host.
    pub(super) fn invalidate_all(&self, host: HostId) {
        self.queues[host.index()].prefetched.lock().clear();
    }

    fn in_flight(&self) -> Vec<Arc<Prefetch>> {
        self.in_flight.lock().clone()
    }
}

impl ResolverCore {
    /// Until when a question about a path should wait for what is prefetched, or until something has
    /// changed; `None`: it need not. `record` is what is known of the path, `holder` who certainly has it.
    pub(super) fn wait_for_prefetch(
        &self,
        path: &StorePath,
        record: &PathRecord,
        holder: Option<HostId>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut until: Option<Instant> = None;
        for prefetch in self.prefetches.in_flight() {
            let answer = record.answer_of(prefetch.host);
            if answer.is_some_and(|answer| self.cache.is_checked(answer)) {
                continue;
            }
            let phase = prefetch.phase.lock().clone();
            let mut limit = match &phase.closure {
                None => prefetch.begun + CLOSURE_WAIT,
                Some(closure) if closure.wanted.contains(path) => closure.latest + INFOS_WAIT,
                Some(_) => continue,
            };
            if let Some(holder) = holder {
                // A better host may hold up the answer for the hedge delay.
                if prefetch.host > holder || !self.pool.may_delay_answers(prefetch.host) {
                    continue;
                }
                let since = phase.overtaken.unwrap_or(prefetch.begun);
                limit = limit.min(since + self.pool.hedge_delay());
            }
            if limit > now {
                until = Some(until.map_or(limit, |until| until.min(limit)));
            }
        }
        until
    }

    /// Starts a prefetch of the closure of what a host has just answered, unless it was prefetched.
    pub(super) fn prefetch(self: &Arc<Self>, host: HostId, infos: &[Arc<PathInfo>]) {
        if self.prefetches.off.load(Ordering::Relaxed) {
            return;
        }
        let counts = |path: &StorePath| self.cache.has_info_from(host, path);
        let leads_on = |info: &&Arc<PathInfo>| {
            let mut others = info.references.iter().filter(|path| **path != info.path);
            others.any(|path| !counts(path))
        };
        let mut prefetched = self.prefetches.queues[host.index()].prefetched.lock();
        let leading: Vec<_> = infos
            .iter()
            .filter(|info| !prefetched.contains_key(&info.path) && counts(&info.path))
            .filter(leads_on)
            .collect();
        let roots: Vec<_> = leading.iter().map(|info| info.path.clone()).collect();
        if roots.is_empty() || roots.len() > ROOTS_MAX {
            return;
        }
        prefetched.extend(roots.iter().map(|root| (root.clone(), false)));
        drop(prefetched);
        let mut seen: HashSet<&StorePath> = roots.iter().collect();
        let references = leading.iter().flat_map(|info| &info.references);
        let references = references.filter(|path| seen.insert(path)).cloned();
        let references = references.take(PATHS_PER_QUESTION).collect();
        let prefetch = Arc::new(Prefetch {
            host,
            roots,
            references,
            begun: Instant::now(),
            phase: Mutex::default(),
        });
        self.prefetches.in_flight.lock().push(prefetch.clone());
        let task = PrefetchTask {
            core: self.clone(),
            prefetch,
        };
        tokio::spawn(task.run());
    }

    /// Asks each host which of these paths it has, if it has not told and is not known to fail, behind the prefetches that
    /// it is asked for already.
    pub(super) fn look_for_holders(self: &Arc<Self>, paths: Vec<StorePath>) {
        if self.prefetches.off.load(Ordering::Relaxed) {
            return;
        }
        for host in self.pool.hosts().filter(|host| self.pool.is_healthy(*host)) {
            let unknown: Vec<StorePath> = paths
                .iter()
                .filter(|path| !self.cache.has_answer_from(host, path))
                .cloned()
                .collect();
            if !unknown.is_empty() {
                let core = self.clone();
                tokio::spawn(async move { core.ask_for_more(host, unknown).await });
            }
        }
    }

    async fn ask_for_more(&self, host: HostId, mut paths: Vec<StorePath>) {
        let _turn = self.prefetches.queues[host.index()].turn.lock().await;
        paths.retain(|path| !self.cache.has_answer_from(host, path));
        for chunk in paths.chunks(PATHS_PER_QUESTION) {
            // A failure has been recorded and reported by the pool.
            let Ok(infos) = self.pool.query_path_infos(host, chunk).await else {
                return;
            };
            self.cache.record_answers(host, chunk, &infos);
            self.prefetches.notify();
        }
    }

    /// The closure of exactly these paths, if one of these hosts is being asked for it.
    pub(super) async fn prefetched_closure(
        &self,
        hosts: &[HostId],
        roots: &[StorePath],
    ) -> Option<Arc<Vec<StorePath>>> {
        loop {
            let mut changed = self.prefetches.changed();
            let same = |prefetch: &Arc<Prefetch>| {
                let mine: HashSet<_> = prefetch.roots.iter().collect();
                hosts.contains(&prefetch.host)
                    && mine.len() == roots.len()
                    && roots.iter().all(|root| mine.contains(root))
            };
            let in_flight: Vec<_> = self
                .prefetches
                .in_flight()
                .into_iter()
                .filter(same)
                .collect();
            let closure = in_flight.iter().find_map(|prefetch| {
                let phase = prefetch.phase.lock();
                phase.closure.as_ref().map(|closure| closure.whole.clone())
            });
            if closure.is_some() || in_flight.is_empty() {
                return closure;
            }
            // Its connection has time limits of its own.
            changed.changed().await.ok()?;
        }
    }
}

/// A prefetch in flight, until this is dropped.
struct PrefetchTask {
    core: Arc<ResolverCore>,
    prefetch: Arc<Prefetch>,
}

impl PrefetchTask {
    async fn run(self) {
        let Prefetch {
            host,
            roots,
            references,
            ..
        } = &*self.prefetch;
        let (core, host) = (&self.core, *host);
        let queue = &core.prefetches.queues[host.index()];
        let _turn = queue.turn.lock().await;
        let open: Vec<_> = {
            let prefetched = queue.prefetched.lock();
            let has_come = |root: &&StorePath| prefetched.get(*root) == Some(&true);
            roots
                .iter()
                .filter(|root| !has_come(root))
                .cloned()
                .collect()
        };
        if open.is_empty() {
            return;
        }
        core.cache.look_up(&self.unknown(references), false).await;
        let ahead = self.unknown(references);
        let asked_at = unix_seconds();
        // A failure has been recorded and reported by the pool.
        let asked = core.pool.query_closure_with_infos(host, &open, &ahead);
        let (closure, infos) = match asked.await {
            Ok(answer) => answer,
            Err(error) => return self.failed(&open, &error),
        };
        core.cache.record_answers(host, &ahead, &infos);
        // The host has all of these. Other processes may have left most of the infos on disk.
        core.cache.look_up(&self.unknown(&closure), false).await;
        core.record_check(host, &closure, &closure, asked_at);
        log::debug!(
            "{}: a closure of {} paths",
            core.pool.host(host),
            closure.len()
        );
        {
            let mut prefetched = queue.prefetched.lock();
            if prefetched.len() + closure.len() > PREFETCHED_MAX {
                prefetched.clear();
                prefetched.shrink_to_fit();
            }
            let some = closure.iter().take(PREFETCHED_MAX);
            prefetched.extend(some.map(|path| (path.clone(), true)));
        }
        let unknown = self.unknown(&closure);
        self.enter(closure, &unknown);
        self.progress();
        let mut references = references_of(&infos);
        for chunk in unknown.chunks(PATHS_PER_QUESTION) {
            // No real closure has so many.
            if references > REFERENCES_MAX {
                log::debug!("{}: too many references in a closure", core.pool.host(host));
                return;
            }
            let infos = match core.pool.query_path_infos(host, chunk).await {
                Ok(infos) => infos,
                Err(error) => return self.failed(&self.whole(), &error),
            };
            references += references_of(&infos);
            core.cache.record_answers(host, chunk, &infos);
            self.progress();
        }
    }

    /// Lets these paths be prefetched again. Unreadable replies would be no better the next time.
    fn failed(&self, paths: &[StorePath], error: &RemoteError) {
        if error.verdict() == Verdict::Unreadable {
            return;
        }
        let queue = &self.core.prefetches.queues[self.prefetch.host.index()];
        let mut prefetched = queue.prefetched.lock();
        for path in paths {
            prefetched.remove(path);
        }
    }

    /// The closure, once it has come.
    fn whole(&self) -> Arc<Vec<StorePath>> {
        let phase = self.prefetch.phase.lock();
        let closure = phase.closure.as_ref();
        closure.map_or_else(Arc::default, |closure| closure.whole.clone())
    }

    /// Those of `paths` about which this host has no valid answer.
    fn unknown(&self, paths: &[StorePath]) -> Vec<StorePath> {
        let is_unknown =
            |path: &&StorePath| !self.core.cache.has_answer_from(self.prefetch.host, path);
        paths
            .iter()
            .filter(is_unknown)
            .take(INFOS_MAX)
            .cloned()
            .collect()
    }

    fn enter(&self, closure: Vec<StorePath>, wanted: &[StorePath]) {
        self.core.cache.names.record(closure.iter());
        self.prefetch.phase.lock().closure = Some(Closure {
            whole: Arc::new(closure),
            wanted: Arc::new(wanted.iter().cloned().collect()),
            latest: Instant::now(),
        });
        self.core.prefetches.notify();
    }

    /// Infos have come.
    fn progress(&self) {
        let now = Instant::now();
        if let Some(closure) = &mut self.prefetch.phase.lock().closure {
            closure.latest = now;
        }
        for other in self.core.prefetches.in_flight() {
            if other.host != self.prefetch.host {
                other.phase.lock().overtaken.get_or_insert(now);
            }
        }
        self.core.prefetches.notify();
    }
}

/// How many references they have altogether.
fn references_of(infos: &[Arc<PathInfo>]) -> usize {
    infos.iter().map(|info| info.references.len()).sum()
}

impl Drop for PrefetchTask {
    fn drop(&mut self) {
        self.core
            .prefetches
            .in_flight
            .lock()
            .retain(|other| !Arc::ptr_eq(other, &self.prefetch));
        self.core.prefetches.notify();
    }
}
