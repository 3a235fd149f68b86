//! Which paths there are, what they are, and who has them.
//!
//! A question goes to the memory tier first, then to the disk tier, and to the hosts only for what neither
//! knows:
//!
//! ```text
//! find -> memory -> question in flight about the same -> disk -> check, prefetch in flight -> hosts
//!                                                                        ^                   |
//!                                                                        '--- starts one ----'
//! ```
//!
//! A remembered answer counts only if its host was asked a few seconds ago at most whether it still has the
//! path (`checks`). Each host's answer about a path is kept for itself (`cache::PathRecord`), so that one host
//! can be forgotten without the others.
//!
//! | module | what it does |
//! | --- | --- |
//! | `questions` | questions in flight: batches, and what each path waits for |
//! | `cache` | both cache tiers, and what is known of each path |
//! | `checks` | asks hosts whether they still have what is remembered |
//! | `prefetch` | asks ahead for the closure of what was asked for |
//! | `signatures` | verifies many signatures off the runtime's threads |
//! | `trust` | which content is accepted from which host |
//! | `closure` | closures of paths |
//! | `gather` | questions of many callers that go out together |
//! | `build_logs` | how derivations were built |
//! | `names` | paths of which only the hash parts are known |

mod build_logs;
mod cache;
mod checks;
mod closure;
mod counts;
mod found;
mod gather;
mod names;
mod prefetch;
mod questions;
mod signatures;
mod trust;

use std::collections::HashMap;
use std::sync::Arc;

pub use cache::KeyedDisk;
pub use counts::Counts;
pub use found::{Found, NotFound};
pub use names::NameSource;
pub use trust::{Distrust, Reason, Trust, Why};

use crate::cache::Lifetimes;
use crate::model::StorePath;
use crate::pool::{HostId, Pool, RemoteError};
use cache::PathInfoCache;
use checks::{Checks, Recheck};
use counts::Counters;
use names::Names;
use prefetch::Prefetches;
use questions::InFlightQuestions;

/// Answers questions about paths.
pub struct Resolver {
    core: Arc<ResolverCore>,
}

/// What the resolver shares with its background tasks.
struct ResolverCore {
    pool: Arc<Pool>,
    cache: PathInfoCache,
    questions: InFlightQuestions,
    checks: Checks,
    prefetches: Prefetches,
    recheck: Recheck,
    names: Names,
    counters: Counters,
}

impl Resolver {
    /// A resolver that asks the hosts of `pool`, accepts what `trust` accepts and remembers for as
    /// long as it lives.
    #[must_use]
    pub fn new(pool: Arc<Pool>, trust: Trust) -> Self {
        Self::with_disk(pool, trust, None, Lifetimes::default())
    }

    /// The same, which shares answers with other processes through `disk`, and remembers them for
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
                names: Names::default(),
                counters: Counters::default(),
            }),
        }
    }

    /// Those of `paths` that can be fetched, in the order of the question, each once.
    ///
    /// Left out are paths that no host has, that no host is trusted with, or that only unreachable hosts have.
    pub async fn find(&self, paths: &[StorePath]) -> Vec<Found> {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        self.core.verify_ahead(paths.iter()).await;
        for path in paths {
            match self.core.remembered(path) {
                Some(answer) => found.extend(answer.map(|one| (path.clone(), one))),
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
        // Removed, so that a path that was asked for twice comes once.
        paths.iter().filter_map(|path| found.remove(path)).collect()
    }

    /// Where the answers came from so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core.counters.counts()
    }

    /// The hosts known to have the NAR that was advertised for `path`. Asks no host.
    #[must_use]
    pub fn holders(&self, path: &StorePath) -> Option<Arc<[HostId]>> {
        Some(self.recall(path)?.holders)
    }

    /// Has each host that may be asked now asked in the background which of `paths` it has, as far as it has not told yet:
    /// who has a path first answers a question about it, and others may never have been asked.
    pub fn look_for_holders(&self, paths: Vec<StorePath>) {
        self.core.look_for_holders(paths);
    }

    /// The error for a path that no host has. It counts the hosts that gave no answer.
    #[must_use]
    pub fn not_found(&self, path: &StorePath) -> NotFound {
        NotFound {
            path: path.clone(),
            hosts: self.core.pool.hosts().count(),
            without_answer: self.core.pool.hosts_without_answer(),
        }
    }

    /// What is remembered of `path`, even if no host has it now: for a caller to which it was advertised. Asks
    /// no host.
    #[must_use]
    pub fn recall(&self, path: &StorePath) -> Option<Found> {
        let record = self.core.cache.get(path)?;
        self.core.cache.best_match(&record)
    }

    /// A path turned out not to be available: all answers about it are forgotten, here and for other processes.
    pub fn forget(&self, path: &StorePath) {
        for host in self.core.pool.hosts() {
            self.forget_at(host, path);
        }
        self.core.cache.forget(path);
    }

    /// A host turned out not to have a path (any more), or sent wrong content: its answer is forgotten, here and
    /// for other processes. Answers of other hosts stay.
    pub fn forget_at(&self, host: HostId, path: &StorePath) {
        self.core.cache.forget_at(host, path);
        let path = std::slice::from_ref(path);
        self.core.prefetches.invalidate(host, path);
    }

    /// All answers of a host are forgotten in this process. The disk tier is cleared separately.
    pub fn forget_host(&self, host: HostId) {
        self.core.cache.forget_host(host);
        self.core.prefetches.invalidate_all(host);
        // Its processes keep their answers.
        self.core.pool.close_idle(host, 0);
    }

    /// To be called when paths are about to be downloaded. The first call starts a background check of answers
    /// that earlier processes got some time ago.
    pub fn download_begins(&self) {
        self.core.start_recheck();
    }

    /// From now on nothing is asked ahead: for a process that has one question only.
    pub fn disable_prefetch(&self) {
        self.core.prefetches.switch_off();
    }

    /// Another caller attaches: messages that are given once are given once more.
    pub fn new_command(&self) {
        self.core.cache.next_caller_generation();
        self.core.pool.new_command();
    }

    /// To be called before the process ends. Waits until all answers are on disk, at most about 0.3 s.
    pub async fn flush(&self) {
        self.core.cache.flush().await;
    }

    /// `paths` and all they refer to, sorted; with `include_outputs` the outputs of derivations too. Paths that
    /// cannot be fetched are left out.
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
