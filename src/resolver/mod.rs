//! Which paths there are, what they are, and who has them.
//!
//! A question goes to the memory first and to the hosts only for what is not known there.

mod trust;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

pub use trust::{Distrust, Trust};

use crate::cache::MemoryCache;
use crate::model::{PathInfo, StorePath};
use crate::pool::{Holder, HostId, Pool, RemoteError};

/// How many paths are remembered.
const REMEMBERED: u64 = 200_000;

/// A path that can be had: what it is and who has it, the best host first. All of them have the
/// same NAR (the same hash).
#[derive(Debug, Clone)]
pub struct Found {
    /// What the best host knows about it.
    pub info: Arc<PathInfo>,
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
    pool: Arc<Pool>,
    trust: Trust,
    memory: MemoryCache<Found>,
    /// Hosts whose paths were refused and of which the user knows.
    told: Mutex<HashSet<(HostId, &'static str)>>,
}

impl Resolver {
    /// A resolver that asks the hosts of `pool` and accepts what `trust` accepts.
    #[must_use]
    pub fn new(pool: Arc<Pool>, trust: Trust) -> Self {
        Self {
            pool,
            trust,
            memory: MemoryCache::new(REMEMBERED),
            told: Mutex::default(),
        }
    }

    /// Those of `paths` that can be had, in the order of the question, each once.
    ///
    /// What no host has, what no host is trusted with, and what only hosts have that cannot be
    /// reached, is left out.
    pub async fn find(&self, paths: &[StorePath]) -> Vec<Found> {
        let mut known = HashMap::new();
        let mut unknown = Vec::new();
        for path in paths {
            match self.memory.get(path) {
                Some(found) => {
                    known.insert(path.clone(), found);
                }
                None => unknown.push(path.clone()),
            }
        }
        if !unknown.is_empty() {
            unknown.sort();
            unknown.dedup();
            known.extend(self.ask(&unknown).await);
        }
        // Taken out, so that a path that was asked for twice comes once.
        paths.iter().filter_map(|path| known.remove(path)).collect()
    }

    /// That nobody has `path`, with the hosts that could not be asked.
    #[must_use]
    pub fn not_found(&self, path: &StorePath) -> NotFound {
        NotFound {
            path: path.clone(),
            hosts: self.pool.hosts().count(),
            without_answer: self.pool.in_trouble(),
        }
    }

    /// Asks the hosts, and remembers what they have.
    async fn ask(&self, paths: &[StorePath]) -> HashMap<StorePath, Found> {
        let accept = |host, info: &PathInfo| self.accepts(host, info);
        let holders = self.pool.ask(paths, accept).await.holders.into_iter();
        let answers: HashMap<_, _> = holders
            .filter_map(|(path, holders)| Some((path, found(holders)?)))
            .collect();
        for (path, found) in &answers {
            self.memory.insert(path.clone(), found.clone());
        }
        answers
    }

    fn accepts(&self, host: HostId, info: &PathInfo) -> bool {
        match self.trust.check(self.pool.host(host), info) {
            Ok(()) => true,
            Err(distrust) => {
                // Held for an insert only.
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.insert((host, distrust.reason())) {
                    drop(told);
                    self.pool.notify(&distrust);
                }
                false
            }
        }
    }

    /// A path turned out not to be had after all: what is remembered of it is forgotten.
    pub fn forget(&self, path: &StorePath) {
        self.memory.forget(path);
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
        let mut closure = BTreeSet::new();
        let mut open = self.find(paths).await;
        while let Some(first) = open.first() {
            let holders = first.holders.clone();
            // One question for all that the same hosts have.
            let (here, rest): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|f| f.holders == holders);
            open = rest;
            let roots: Vec<_> = here.iter().map(|f| f.info.path.clone()).collect();
            closure.extend(self.closure_at(&holders, &roots, include_outputs).await?);
        }
        Ok(closure.into_iter().collect())
    }

    async fn closure_at(
        &self,
        holders: &[HostId],
        roots: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        let mut last = None;
        for host in self.pool.in_order_of_health(holders) {
            match self.pool.query_closure(host, roots, include_outputs).await {
                Ok(closure) => return Ok(closure),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error),
            None => Ok(Vec::new()),
        }
    }
}

/// The best host's info and all hosts that have the same NAR.
fn found(holders: Vec<Holder>) -> Option<Found> {
    let info = holders.first()?.info.clone();
    let same = holders
        .iter()
        .filter(|holder| holder.info.nar_hash == info.nar_hash)
        .map(|holder| holder.host);
    let holders = if info.nar_hash.is_some() {
        same.collect()
    } else {
        // Without a hash nothing says that others have the same.
        same.take(1).collect()
    };
    Some(Found { info, holders })
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
