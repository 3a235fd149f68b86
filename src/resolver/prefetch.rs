//! What will be asked next: whoever asks for a path comes for its closure. When a host has told of
//! a path, it is asked for the whole closure and all infos in it, in the background, so that the
//! next questions are answered from memory.
//!
//! Each host that has the path is asked, so that it is known of each path who has it. A question
//! that comes meanwhile waits for what is on its way, within limits, instead of asking by itself.
//! What fails here does no harm: the question is then asked as any other.

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Inner;
use super::known::Known;
use crate::cache::disk::unix_seconds;
use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, RemoteError, Verdict};
use crate::watch;

/// How long a question waits to learn whether what it is about is on its way.
const FOR_CLOSURE: Duration = Duration::from_secs(1);

/// How long a question waits for what is on its way, after the last that came.
const FOR_INFOS: Duration = Duration::from_secs(2);

/// How many infos are fetched ahead for one closure. Of a larger one the rest is asked for when
/// somebody wants it.
const MOST: usize = 20_000;

/// How many references the infos that are fetched ahead for one closure may have altogether.
const REFERENCES: usize = 500_000;

/// Infos in one question: what has come is of use before all has come.
const AT_ONCE: usize = 2_000;

/// Roots that one question may have. Who asks for more than this knows the closure already.
const ROOTS: usize = 2_000;

/// How many paths are known to be covered, for each host.
const COVERED: usize = 200_000;

/// What is on its way.
pub(super) struct Prefetches {
    flying: Mutex<Vec<Arc<Prefetch>>>,
    lanes: Vec<Lane>,
    changed: watch::Sender<()>,
    off: AtomicBool,
}

/// One host's prefetches.
#[derive(Default)]
struct Lane {
    /// One at a time: the others may find that they are covered by then.
    turn: tokio::sync::Mutex<()>,
    /// Paths that need no other prefetch; `true` for those whose closure has come.
    covered: Mutex<HashMap<StorePath, bool>>,
}

struct Prefetch {
    host: HostId,
    roots: Vec<StorePath>,
    begun: Instant,
    phase: Mutex<Phase>,
}

#[derive(Clone, Default)]
struct Phase {
    /// `None` until it has come.
    closure: Option<Closure>,
    /// Since when another host has told of what this one has not yet.
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

/// Whether it is worth waiting for an answer about a path.
pub(super) enum Outlook {
    /// It may come by itself; to be looked at again then, or when something has changed.
    Wait(Instant),
    /// All is known that will be.
    Ready,
}

impl Prefetches {
    pub(super) fn new(hosts: usize) -> Self {
        Self {
            flying: Mutex::default(),
            lanes: (0..hosts).map(|_| Lane::default()).collect(),
            changed: watch::Sender::new(()),
            off: AtomicBool::new(false),
        }
    }

    pub(super) fn switch_off(&self) {
        self.off.store(true, Ordering::Relaxed);
    }

    /// Tells when there is news.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// There is news.
    pub(super) fn tell(&self) {
        self.changed.send_modify(|()| {});
    }

    /// These have come to a host or gone from it: what refers to them has to be asked anew.
    pub(super) fn uncover(&self, host: HostId, paths: &[StorePath]) {
        let mut covered = self.lanes[host.index()].covered.lock();
        for path in paths {
            covered.remove(path);
        }
    }

    /// The same for all that was heard of a host.
    pub(super) fn uncover_all(&self, host: HostId) {
        self.lanes[host.index()].covered.lock().clear();
    }

    fn flying(&self) -> Vec<Arc<Prefetch>> {
        self.flying.lock().clone()
    }
}

impl Inner {
    /// Whether a question about a path should wait; `known` is what is known of it, and `holder` who
    /// certainly has it.
    pub(super) fn outlook(
        &self,
        path: &StorePath,
        known: &Known,
        holder: Option<HostId>,
    ) -> Outlook {
        let now = Instant::now();
        let mut until: Option<Instant> = None;
        for prefetch in self.prefetches.flying() {
            let said = known.of(prefetch.host);
            if said.is_some_and(|answer| self.memory.is_checked(answer)) {
                continue;
            }
            let phase = prefetch.phase.lock().clone();
            let mut limit = match &phase.closure {
                None => prefetch.begun + FOR_CLOSURE,
                Some(closure) if closure.wanted.contains(path) => closure.latest + FOR_INFOS,
                Some(_) => continue,
            };
            if let Some(holder) = holder {
                // A better host may hold up the answer of another one, for the hedge delay.
                if prefetch.host > holder || !self.pool.is_waited_for(prefetch.host) {
                    continue;
                }
                let since = phase.overtaken.unwrap_or(prefetch.begun);
                limit = limit.min(since + self.pool.hedge());
            }
            if limit > now {
                until = Some(until.map_or(limit, |until| until.min(limit)));
            }
        }
        until.map_or(Outlook::Ready, Outlook::Wait)
    }

    /// Starts a prefetch of what a host has just told of, unless it is covered.
    pub(super) fn prefetch(self: &Arc<Self>, host: HostId, infos: &[Arc<PathInfo>]) {
        if self.prefetches.off.load(Ordering::Relaxed) {
            return;
        }
        let counts = |path: &StorePath| self.memory.has_been_told(host, path);
        let leads_on = |info: &&Arc<PathInfo>| {
            let mut others = info.references.iter().filter(|path| **path != info.path);
            others.any(|path| !counts(path))
        };
        let mut covered = self.prefetches.lanes[host.index()].covered.lock();
        let roots: Vec<_> = infos
            .iter()
            .filter(|info| !covered.contains_key(&info.path) && counts(&info.path))
            .filter(leads_on)
            .map(|info| info.path.clone())
            .collect();
        if roots.is_empty() || roots.len() > ROOTS {
            return;
        }
        covered.extend(roots.iter().map(|root| (root.clone(), false)));
        drop(covered);
        let prefetch = Arc::new(Prefetch {
            host,
            roots,
            begun: Instant::now(),
            phase: Mutex::default(),
        });
        self.prefetches.flying.lock().push(prefetch.clone());
        let flight = Flight {
            inner: self.clone(),
            prefetch,
        };
        tokio::spawn(flight.run());
    }

    /// The closure of exactly these paths, when one of these hosts is telling it just now.
    pub(super) async fn closure_on_its_way(
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
            let flying: Vec<_> = self.prefetches.flying().into_iter().filter(same).collect();
            let told = flying.iter().find_map(|prefetch| {
                let phase = prefetch.phase.lock();
                phase.closure.as_ref().map(|closure| closure.whole.clone())
            });
            if told.is_some() || flying.is_empty() {
                return told;
            }
            // Its connection is under limits itself.
            changed.changed().await.ok()?;
        }
    }
}

/// A prefetch that goes on. It is over when this is dropped.
struct Flight {
    inner: Arc<Inner>,
    prefetch: Arc<Prefetch>,
}

impl Flight {
    async fn run(self) {
        let Prefetch { host, roots, .. } = &*self.prefetch;
        let (inner, host) = (&self.inner, *host);
        let lane = &inner.prefetches.lanes[host.index()];
        let _turn = lane.turn.lock().await;
        let open: Vec<_> = {
            let covered = lane.covered.lock();
            let has_come = |root: &&StorePath| covered.get(*root) == Some(&true);
            roots
                .iter()
                .filter(|root| !has_come(root))
                .cloned()
                .collect()
        };
        if open.is_empty() {
            return;
        }
        let asked_at = unix_seconds();
        // A failure has been counted and told.
        let closure = match inner.pool.query_closure(host, &open, false).await {
            Ok(closure) => closure,
            Err(error) => return self.failed(&open, &error),
        };
        // What is remembered of these is true, or they have come to the host since. Other processes may
        // have asked for most of it.
        inner.memory.look_up(&self.unknown(&closure), false).await;
        inner.checked(host, &closure, &closure, asked_at);
        log::debug!(
            "{}: a closure of {} paths",
            inner.pool.host(host),
            closure.len()
        );
        {
            let mut covered = lane.covered.lock();
            if covered.len() + closure.len() > COVERED {
                covered.clear();
                covered.shrink_to_fit();
            }
            let some = closure.iter().take(COVERED);
            covered.extend(some.map(|path| (path.clone(), true)));
        }
        let unknown = self.unknown(&closure);
        self.enter(closure, &unknown);
        self.progress();
        let mut references = 0;
        for chunk in unknown.chunks(AT_ONCE) {
            // A closure refers to nothing but itself; this is more than any has.
            if references > REFERENCES {
                log::debug!(
                    "{}: too many references in a closure",
                    inner.pool.host(host)
                );
                return;
            }
            let infos = match inner.pool.query_path_infos(host, chunk).await {
                Ok(infos) => infos,
                Err(error) => return self.failed(&self.whole(), &error),
            };
            references += infos
                .iter()
                .map(|info| info.references.len())
                .sum::<usize>();
            inner.memory.heard(host, chunk, &infos);
            self.progress();
        }
    }

    /// What has not come may be asked for again, when somebody asks about it. What cannot be read
    /// would come no better.
    fn failed(&self, paths: &[StorePath], error: &RemoteError) {
        if error.verdict() == Verdict::Unreadable {
            return;
        }
        let lane = &self.inner.prefetches.lanes[self.prefetch.host.index()];
        let mut covered = lane.covered.lock();
        for path in paths {
            covered.remove(path);
        }
    }

    /// The closure, once it has come.
    fn whole(&self) -> Arc<Vec<StorePath>> {
        let phase = self.prefetch.phase.lock();
        let closure = phase.closure.as_ref();
        closure.map_or_else(Arc::default, |closure| closure.whole.clone())
    }

    /// What this host has not said anything of.
    fn unknown(&self, paths: &[StorePath]) -> Vec<StorePath> {
        let is_unknown = |path: &&StorePath| !self.inner.memory.has_said(self.prefetch.host, path);
        paths
            .iter()
            .filter(is_unknown)
            .take(MOST)
            .cloned()
            .collect()
    }

    fn enter(&self, closure: Vec<StorePath>, wanted: &[StorePath]) {
        self.prefetch.phase.lock().closure = Some(Closure {
            whole: Arc::new(closure),
            wanted: Arc::new(wanted.iter().cloned().collect()),
            latest: Instant::now(),
        });
        self.inner.prefetches.tell();
    }

    /// Something has come.
    fn progress(&self) {
        let now = Instant::now();
        if let Some(closure) = &mut self.prefetch.phase.lock().closure {
            closure.latest = now;
        }
        for other in self.inner.prefetches.flying() {
            if other.host != self.prefetch.host {
                other.phase.lock().overtaken.get_or_insert(now);
            }
        }
        self.inner.prefetches.tell();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.inner
            .prefetches
            .flying
            .lock()
            .retain(|other| !Arc::ptr_eq(other, &self.prefetch));
        self.inner.prefetches.tell();
    }
}
