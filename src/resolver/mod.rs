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

mod asking;
mod check;
mod closure;
mod counts;
mod gone;
mod known;
mod memory;
mod prefetch;
mod recheck;
mod shelf;
mod trust;
mod verify;

use std::collections::HashMap;
use std::sync::Arc;

pub use counts::Counts;
pub use shelf::DiskTier;
pub use trust::{Distrust, Reason, Trust, Why};

use crate::cache::Lifetimes;
use crate::hint::Hint;
use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, Pool, RemoteError};
use asking::Questions;
use check::Checks;
use counts::Counters;
use memory::Memory;
use prefetch::Prefetches;
use recheck::Recheck;

/// A path that can be had: what it is and who has it, the best host first. All of them have the
/// same NAR (the same hash).
#[derive(Debug, Clone)]
pub struct Found {
    /// What the best host knows about it.
    pub info: Arc<PathInfo>,
    /// What its NAR has to be. The same, but without the content address of a path that refers to itself
    /// and whose NAR hash is trusted or signed: Nix 2.17 to 2.34 compute such addresses otherwise than all
    /// others, so that it is not judged by that.
    pub to_fetch: Arc<PathInfo>,
    /// Who has it; never empty.
    pub holders: Arc<[HostId]>,
}

/// No host that gave an answer has a path.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct NotFound {
    /// The path.
    pub path: StorePath,
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of them gave no answer.
    pub without_answer: usize,
}

impl Hint for NotFound {
    fn hint(&self) -> Option<String> {
        None
    }
}

impl NotFound {
    fn text(&self) -> String {
        let Self {
            path,
            hosts,
            without_answer,
        } = self;
        if *without_answer == 0 {
            return format!("no host has {path}");
        }
        let silent = format!("{without_answer} of {hosts} hosts gave no answer");
        if without_answer == hosts {
            format!("cannot tell whether a host has {path}: {silent}")
        } else {
            format!("no host that answered has {path}, but {silent}")
        }
    }
}

/// Answers questions about paths.
pub struct Resolver {
    inner: Arc<Inner>,
}

/// What tasks in the background share with the resolver.
struct Inner {
    pool: Arc<Pool>,
    memory: Memory,
    questions: Questions,
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
        disk: Option<DiskTier>,
        lifetimes: Lifetimes,
    ) -> Self {
        let hosts = pool.hosts().count();
        Self {
            inner: Arc::new(Inner {
                memory: Memory::new(pool.clone(), trust, disk, lifetimes),
                pool,
                questions: Questions::default(),
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
        self.inner.verify_ahead(paths.iter()).await;
        for path in paths {
            match self.inner.remembered(path) {
                Some(known) => found.extend(known.map(|known| (path.clone(), known))),
                None => unknown.push(path.clone()),
            }
        }
        let remembered = paths.len() - unknown.len();
        Counters::add(&self.inner.counters.memory, remembered);
        if !unknown.is_empty() {
            unknown.sort();
            unknown.dedup();
            found.extend(self.inner.ask(unknown).await);
        }
        // Taken out, so that a path that was asked for twice comes once.
        paths.iter().filter_map(|path| found.remove(path)).collect()
    }

    /// Where the answers came from so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.counters.counts()
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
            hosts: self.inner.pool.hosts().count(),
            without_answer: self.inner.pool.in_trouble(),
        }
    }

    /// What is remembered of `path`, although nobody may have it now, or can be asked: for who has been
    /// told of it and comes for it. Asks nobody.
    #[must_use]
    pub fn recall(&self, path: &StorePath) -> Option<Found> {
        let known = self.inner.memory.get(path)?;
        self.inner.memory.tell(&known)
    }

    /// A path turned out not to be had after all: whatever any host said of it is forgotten, here
    /// and for other processes.
    pub fn forget(&self, path: &StorePath) {
        for host in self.inner.pool.hosts() {
            self.forget_at(host, path);
        }
        self.inner.memory.forget(path);
    }

    /// A host turned out not to have a path (any more), or sent it wrongly: what it said of it is
    /// forgotten, here and for other processes. Other hosts are still known to have it.
    pub fn forget_at(&self, host: HostId, path: &StorePath) {
        self.inner.memory.forget_at(host, path);
        let path = std::slice::from_ref(path);
        self.inner.prefetches.uncover(host, path);
    }

    /// All that a host said is forgotten, here: other processes forget by the disk.
    pub fn forget_host(&self, host: HostId) {
        self.inner.memory.forget_host(host);
        self.inner.prefetches.uncover_all(host);
        // Its processes remember what they said.
        self.inner.pool.close_idle(host, 0);
    }

    /// To be called when paths are about to be downloaded. The first call has what earlier
    /// processes were told some time ago checked again, in the background and at once.
    pub fn download_begins(&self) {
        self.inner.start_recheck();
    }

    /// From now on no host is asked for more than what is asked here: for a process that has one
    /// question only.
    pub fn ask_no_more_than_needed(&self) {
        self.inner.prefetches.switch_off();
    }

    /// From now on somebody else is told too: what users are told once is told once more.
    pub fn tell_again(&self) {
        self.inner.memory.new_callers();
        self.inner.pool.new_command();
    }

    /// To be called before the process ends: waits, at most about 0.3 s, until the answers that
    /// were given are on disk.
    pub async fn flush(&self) {
        self.inner.memory.flush().await;
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
        self.inner.closure(found, include_outputs).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_without_an_answer_are_counted() {
        let name = "7rjj86a15146cq1d3qy068lml7n7ykzm-x";
        let text = |hosts, without_answer| {
            let path = StorePath::parse(&format!("/nix/store/{name}")).unwrap();
            let not_found = NotFound {
                path,
                hosts,
                without_answer,
            };
            not_found.to_string()
        };
        assert_eq!(text(2, 0), format!("no host has /nix/store/{name}"));
        assert_eq!(text(0, 0), format!("no host has /nix/store/{name}"));
        assert!(text(3, 1).ends_with("-x, but 1 of 3 hosts gave no answer"));
        assert!(text(2, 2).starts_with("cannot tell whether"));
    }
}
