//! Which paths there are, what they are, and who has them.
//!
//! A question goes to the memory first, then to the disk, and to the hosts only for what is known in
//! neither:
//!
//! ```text
//! find -> memory -> question in flight about the same -> disk -> check, prefetch in flight -> hosts
//!                                                                        ^                   |
//!                                                                        '--- starts one ----'
//! ```
//!
//! What is remembered counts only once the host that said so has been asked, a few seconds ago at most,
//! whether it still has the path (`check`).
//!
//! What is remembered of a path is each host's own answer (`known`), so that one host can be
//! forgotten without the others.

mod cache;
mod checks;
mod closure;
mod counts;
mod found;
mod prefetch;
mod questions;
mod signatures;
mod trust;

use std::collections::HashMap;
use std::sync::Arc;

pub use cache::KeyedDisk;
pub use counts::Counts;
pub use found::{Found, NotFound};
pub use trust::{Distrust, Reason, Trust, Why};

use crate::cache::Lifetimes;
use crate::model::StorePath;
use crate::pool::{HostId, Pool, RemoteError};
use cache::PathInfoCache;
use checks::{Checks, Recheck};
use counts::Counters;
use prefetch::Prefetches;
use questions::InFlightQuestions;

/// Answers questions about paths.
pub struct Resolver {
    core: Arc<ResolverCore>,
}

/// What tasks in the background share with the resolver.
struct ResolverCore {
    pool: Arc<Pool>,
    cache: PathInfoCache,
    questions: InFlightQuestions,
    checks: Checks,
    prefetches: Prefetches,
    recheck: Recheck,
    counters: Counters,
}

impl Resolver {
    /// A resolver that asks the hosts of `pool`, accepts what `trust` accepts and remembers for as
    /// long as it lives.
    #[must_use]
    pub fn new(pool: Arc<Pool>, trust: Trust) -> Self {
        Self::with_disk(pool, trust, None, Lifetimes::default())
    }

    /// The same, that shares answers with other processes through `disk`, and remembers them for
    /// `lifetimes`.
    #[must_use]
    pub fn with_disk(
        pool: Arc<Pool>,
        trust: Trust,
        disk: Option<KeyedDisk>,
        lifetimes: Lifetimes,
    ) -> Self {
        let hosts = pool.hosts().count();
        Self {
            core: Arc::new(ResolverCore {
                cache: PathInfoCache::new(pool.clone(), trust, disk, lifetimes),
                pool,
                questions: InFlightQuestions::default(),
                checks: Checks::default(),
                prefetches: Prefetches::new(hosts),
                recheck: Recheck::default(),
                counters: Counters::default(),
            }),
        }
    }

    /// Those of `paths` that can be had, in the order of the question, each once.
    ///
    /// What no host has, what no host is trusted with, and what only hosts have that cannot be
    /// reached, is left out.
    pub async fn find(&self, paths: &[StorePath]) -> Vec<Found> {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        self.core.verify_ahead(paths.iter()).await;
        for path in paths {
            match self.core.remembered(path) {
                Some(known) => found.extend(known.map(|known| (path.clone(), known))),
                None => unknown.push(path.clone()),
            }
        }
        let remembered = paths.len() - unknown.len();
        Counters::add(&self.core.counters.memory, remembered);
        if !unknown.is_empty() {
            unknown.sort();
            unknown.dedup();
            found.extend(self.core.ask(unknown).await);
        }
        // Taken out, so that a path that was asked for twice comes once.
        paths.iter().filter_map(|path| found.remove(path)).collect()
    }

    /// Where the answers came from so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core.counters.counts()
    }

    /// Who is known by now to have the NAR that was told of when `path` was found. Asks nobody.
    #[must_use]
    pub fn holders(&self, path: &StorePath) -> Option<Arc<[HostId]>> {
        Some(self.recall(path)?.holders)
    }

    /// That nobody has `path`, with the hosts that could not be asked.
    #[must_use]
    pub fn not_found(&self, path: &StorePath) -> NotFound {
        NotFound {
            path: path.clone(),
            hosts: self.core.pool.hosts().count(),
            without_answer: self.core.pool.in_trouble(),
        }
    }

    /// What is remembered of `path`, although nobody may have it now, or can be asked: for who has been
    /// told of it and comes for it. Asks nobody.
    #[must_use]
    pub fn recall(&self, path: &StorePath) -> Option<Found> {
        let known = self.core.cache.get(path)?;
        self.core.cache.best_match(&known)
    }

    /// A path turned out not to be had after all: whatever any host said of it is forgotten, here
    /// and for other processes.
    pub fn forget(&self, path: &StorePath) {
        for host in self.core.pool.hosts() {
            self.forget_at(host, path);
        }
        self.core.cache.forget(path);
    }

    /// A host turned out not to have a path (any more), or sent it wrongly: what it said of it is
    /// forgotten, here and for other processes. Other hosts are still known to have it.
    pub fn forget_at(&self, host: HostId, path: &StorePath) {
        self.core.cache.forget_at(host, path);
        let path = std::slice::from_ref(path);
        self.core.prefetches.invalidate(host, path);
    }

    /// All that a host said is forgotten, here: other processes forget by the disk.
    pub fn forget_host(&self, host: HostId) {
        self.core.cache.forget_host(host);
        self.core.prefetches.invalidate_all(host);
        // Its processes remember what they said.
        self.core.pool.close_idle(host, 0);
    }

    /// To be called when paths are about to be downloaded. The first call has what earlier
    /// processes were told some time ago checked again, in the background and at once.
    pub fn download_begins(&self) {
        self.core.start_recheck();
    }

    /// From now on no host is asked for more than what is asked here: for a process that has one
    /// question only.
    pub fn disable_prefetch(&self) {
        self.core.prefetches.switch_off();
    }

    /// From now on somebody else is told too: what users are told once is told once more.
    pub fn tell_again(&self) {
        self.core.cache.next_callers();
        self.core.pool.new_command();
    }

    /// To be called before the process ends: waits, at most about 0.3 s, until the answers that
    /// were given are on disk.
    pub async fn flush(&self) {
        self.core.cache.flush().await;
    }

    /// `paths` and all they refer to, sorted; with `include_outputs` the outputs of derivations
    /// too. Paths that cannot be had are left out.
    ///
    /// # Errors
    /// When every host that has one of the paths fails; the last failure is given.
    pub async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        let found = self.find(paths).await;
        self.core.closure(found, include_outputs).await
    }
}
