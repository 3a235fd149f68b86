//! Closures, from the cache where that is enough.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Found, ResolverCore};
use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, RemoteError, Verdict};

impl ResolverCore {
    /// These paths and all they refer to; see `Resolver::closure`.
    pub(super) async fn closure(
        self: &Arc<Self>,
        mut open: Vec<Found>,
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        let mut closure = BTreeSet::new();
        while let Some(first) = open.first() {
            let holders = first.holders.clone();
            // One question for all paths that the same hosts have.
            let (here, rest): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|f| f.holders == holders);
            open = rest;
            let roots: Vec<_> = here.iter().map(|f| f.info.path.clone()).collect();
            if !include_outputs {
                if let Some(told) = self.closure_on_its_way(&holders, &roots).await {
                    closure.extend(told.iter().cloned());
                    continue;
                }
                if let Some(known) = self.known_closure(&roots).await {
                    closure.extend(known);
                    continue;
                }
            }
            closure.extend(self.closure_at(&holders, roots, include_outputs).await?);
        }
        Ok(closure.into_iter().collect())
    }

    /// The closure by the cache, if every path in it may be advertised.
    async fn known_closure(self: &Arc<Self>, roots: &[StorePath]) -> Option<BTreeSet<StorePath>> {
        let mut closure: BTreeSet<StorePath> = roots.iter().cloned().collect();
        let mut open = roots.to_vec();
        while !open.is_empty() {
            self.verify_ahead(open.iter()).await;
            for path in std::mem::take(&mut open) {
                let known = self.cache.get(&path)?;
                let (_, info) = known.holders().find(|(host, _)| {
                    let answer = known.answer_of(*host);
                    answer.is_some_and(|answer| self.is_promise(answer))
                })?;
                for reference in &info.references {
                    if closure.insert(reference.clone()) {
                        open.push(reference.clone());
                    }
                }
            }
        }
        Some(closure)
    }

    async fn closure_at(
        &self,
        holders: &[HostId],
        mut roots: Vec<StorePath>,
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        let mut last = None;
        for host in self.pool.in_order_of_health(holders) {
            match self.closure_of(host, &mut roots, include_outputs).await {
                Ok(Some(closure)) => return Ok(closure),
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error),
            None => Ok(Vec::new()),
        }
    }

    /// The closure as one host knows it, of those of `roots` that it has; `None` when it has none.
    async fn closure_of(
        &self,
        host: HostId,
        roots: &mut Vec<StorePath>,
        include_outputs: bool,
    ) -> Result<Option<Vec<StorePath>>, Arc<RemoteError>> {
        // A remote that lacks one of the paths ends the connection.
        let mut there = self.still_there(host, roots).await?;
        for _ in 0..2 {
            if there.is_empty() {
                return Ok(None);
            }
            let closure = self.pool.query_closure(host, &there, include_outputs);
            match closure.await {
                Err(error) if error.verdict() == Verdict::Absent => {
                    // A path was garbage-collected meanwhile. The host has to say which.
                    let infos = self.ask_again(host, &there).await?;
                    there = infos.iter().map(|info| info.path.clone()).collect();
                }
                closure => {
                    *roots = there;
                    return closure.map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Asks the host for the present infos of these paths, and records which it lacks.
    async fn ask_again(
        &self,
        host: HostId,
        paths: &[StorePath],
    ) -> Result<Vec<Arc<PathInfo>>, Arc<RemoteError>> {
        // A running program repeats its earlier answers.
        self.pool.close_idle(host, 0);
        let infos = self.pool.query_path_infos(host, paths).await?;
        self.cache.record_answers(host, paths, &infos);
        Ok(infos)
    }

    /// Those of `paths` that the host still has. Answers that are not fresh are asked for again.
    async fn still_there(
        &self,
        host: HostId,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        let is_old = |path: &&StorePath| {
            let known = self.cache.get(path);
            known.is_some_and(|known| {
                let answer = known.answer_of(host);
                answer.is_none_or(|answer| !self.cache.is_checked(answer))
            })
        };
        let (old, mut there): (Vec<&StorePath>, Vec<&StorePath>) = paths.iter().partition(is_old);
        let old: Vec<_> = old.into_iter().cloned().collect();
        let infos = if old.is_empty() {
            Vec::new()
        } else {
            let infos = self.pool.query_path_infos(host, &old).await?;
            self.cache.record_answers(host, &old, &infos);
            infos
        };
        there.extend(infos.iter().map(|info| &info.path));
        Ok(there.into_iter().cloned().collect())
    }
}
