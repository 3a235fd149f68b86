//! Which paths are fetched as differences, and from which version here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::base_files::BaseFiles;
use super::delta_options::{DeltaOptions, PatchMemory};
use super::fault::DeltaFault;
use super::{BASES_MAX, Base, BaseLookup};
use crate::config::host::DeltaMode;
use crate::model::{NarHash, PathInfo, StorePath};
use crate::pool::{HostId, Pool};
use crate::transfer::chunks::{FAR, MIN_NAR_SIZE};
use crate::transfer::hosts::{HostBookkeeping, Way};

/// The smallest NAR, in bytes, that is worth the round trips and the processes at the host, wherever it is.
const MIN_SIZE: u64 = 64 << 10;

/// What those processes cost, in seconds of a host's processor: a NAR that comes in less is not worth them.
const OVERHEAD_SECS: f64 = 0.012;

/// What one more process costs, that makes the patch of one file.
const PATCH_SECS: f64 = 0.004;

/// A throughput in bytes a second from which on bytes are not worth sparing. What comes compressed counts with what it is
/// decompressed, so this is more than a link of 100 Mbit/s delivers.
const FAST: u64 = 60_000_000;

/// How many decisions are remembered.
const MAX_DECISIONS: usize = 50_000;

/// A version here, for one path on one host.
#[derive(Debug)]
pub(in crate::transfer) struct ChosenBase {
    pub(in crate::transfer) host: HostId,
    pub(super) path: StorePath,
    pub(super) files: BaseFiles,
    /// The host has the very same.
    pub(super) at_host: bool,
}

/// Whether a path comes as differences.
pub(in crate::transfer) enum DeltaState {
    No,
    /// It has to be found out, by [`Deltas::decide`].
    Undecided(HostId),
    Yes(Arc<ChosenBase>),
}

/// Decides which paths come as differences.
pub(in crate::transfer) struct Deltas {
    bookkeeping: Arc<HostBookkeeping>,
    lookup: Option<Arc<dyn BaseLookup>>,
    /// `None` for a path that does not come so.
    decided: Mutex<HashMap<StorePath, Option<Arc<ChosenBase>>>>,
    memory: PatchMemory,
}

impl Deltas {
    /// Without a `lookup` nothing comes as differences.
    pub(in crate::transfer) fn new(
        bookkeeping: Arc<HostBookkeeping>,
        lookup: Option<Arc<dyn BaseLookup>>,
    ) -> Self {
        Self {
            bookkeeping,
            lookup,
            decided: Mutex::default(),
            memory: PatchMemory::default(),
        }
    }

    pub(in crate::transfer) fn pool(&self) -> &Pool {
        &self.bookkeeping.pool
    }

    /// Whether a path may come as differences from any host. Cheaper than to look its holders up, and most paths are small.
    pub(in crate::transfer) fn is_possible(&self, info: &PathInfo) -> bool {
        self.lookup.is_some() && info.nar_size >= MIN_SIZE && info.nar_hash.is_some()
    }

    /// Whether a path comes as differences, as far as is known.
    pub(in crate::transfer) fn state(&self, info: &PathInfo, holders: &[HostId]) -> DeltaState {
        if !self.is_possible(info) {
            return DeltaState::No;
        }
        let Some(host) = holders.iter().copied().find(|host| self.suits(*host, info)) else {
            return DeltaState::No;
        };
        match self.decided.lock().get(&info.path) {
            None => DeltaState::Undecided(host),
            Some(Some(base)) if holders.contains(&base.host) && self.suits(base.host, info) => {
                DeltaState::Yes(base.clone())
            }
            Some(_) => DeltaState::No,
        }
    }

    /// Whether sparing bytes of that host is worth it, and it can help.
    fn suits(&self, host: HostId, info: &PathInfo) -> bool {
        let bookkeeping = &self.bookkeeping;
        let pool = &bookkeeping.pool;
        let mode = pool.host(host).delta;
        let is_slow = mode == DeltaMode::Always
            || match bookkeeping.throughput.of(host) {
                Some(_) if !bookkeeping.is_behind_a_line(host) => false,
                Some(rate) => rate < FAST && info.nar_size as f64 >= rate as f64 * OVERHEAD_SECS,
                // What is large would have come before its rate is known.
                None => {
                    let is_far = pool.latency(host).is_some_and(|latency| latency >= FAR);
                    is_far && info.nar_size >= MIN_NAR_SIZE
                }
            };
        is_slow
            && mode != DeltaMode::Off
            && pool.may_compress_by_shell(host)
            && pool.is_healthy(host)
            // One for a shell, one for everything else.
            && pool.background_limit(host) >= 2
            && !bookkeeping.sent_wrong_content(host, &info.path)
    }

    /// Decides for these paths, all undecided for `host`.
    pub(in crate::transfer) async fn decide(&self, host: HostId, paths: Vec<StorePath>) {
        let found = self.find(host, &paths).await;
        let mut decided = self.decided.lock();
        if decided.len() + paths.len() > MAX_DECISIONS {
            decided.clear();
        }
        for (path, base) in paths.into_iter().zip(found) {
            if let Some(base) = &base {
                log::debug!(
                    "{path}: {} is here, at the host too: {}",
                    base.path,
                    base.at_host
                );
            }
            decided.insert(path, base.map(Arc::new));
        }
    }

    /// How that host is asked.
    pub(in crate::transfer) fn options(&self, host: HostId) -> DeltaOptions {
        let rate = self.bookkeeping.throughput.of(host).unwrap_or_default();
        DeltaOptions {
            level: self.pool().host(host).compression.level,
            patch_min: (rate as f64 * PATCH_SECS) as u64,
            memory: self.memory.clone(),
        }
    }

    /// The version here that a path comes from, if it does.
    pub(in crate::transfer) async fn base_for(
        &self,
        info: &PathInfo,
        holders: &[HostId],
    ) -> Option<Arc<ChosenBase>> {
        let mut state = self.state(info, holders);
        if let DeltaState::Undecided(host) = state {
            self.decide(host, vec![info.path.clone()]).await;
            state = self.state(info, holders);
        }
        match state {
            DeltaState::Yes(base) => Some(base),
            _ => None,
        }
    }

    /// It does not come as differences after all.
    pub(in crate::transfer) fn reject(&self, path: &StorePath) {
        self.decided.lock().insert(path.clone(), None);
    }

    /// A NAR of `size` bytes has come as differences of `wire_len` bytes.
    pub(in crate::transfer) fn record_done(&self, host: HostId, size: u64, wire_len: u64) {
        let traffic = &self.bookkeeping.traffic;
        traffic.record(host, Way::Differences, size, wire_len);
    }

    /// Records why a path did not come as differences. The version here, or what the host can do, is to blame, and no
    /// person has to do anything about either.
    pub(in crate::transfer) async fn record(
        &self,
        host: HostId,
        path: &StorePath,
        fault: Option<DeltaFault>,
    ) {
        match fault {
            Some(DeltaFault::Remote(error)) => {
                self.bookkeeping.record_shell_failure(host, *error).await;
            }
            Some(DeltaFault::Unsuitable(reason)) => {
                let host = self.bookkeeping.pool.host(host);
                log::debug!("{host}: {path} does not come as differences: {reason}");
            }
            None => log::debug!("{path}: the differences are shorter than the NAR"),
        }
    }

    async fn find(&self, host: HostId, paths: &[StorePath]) -> Vec<Option<ChosenBase>> {
        let none = || paths.iter().map(|_| None).collect();
        let Some(lookup) = self.lookup.clone() else {
            return none();
        };
        let wanted = paths.to_vec();
        let found = tokio::task::spawn_blocking(move || lookup.find(&wanted)).await;
        let mut found = found.unwrap_or_default();
        found.resize_with(paths.len(), Vec::new);
        for (path, bases) in paths.iter().zip(&mut found) {
            bases.retain(|base| base.path != *path);
            bases.truncate(BASES_MAX);
        }
        if found.iter().all(Vec::is_empty) {
            return none();
        }
        let at_host = self.hashes_at(host, found.iter().flatten()).await;
        let Some(at_host) = at_host else {
            return none();
        };
        let choose = move || {
            let choose = |bases: Vec<Base>| choose(host, bases, &at_host);
            found.into_iter().map(choose).collect()
        };
        let chosen = tokio::task::spawn_blocking(choose).await;
        chosen.unwrap_or_else(|_| none())
    }

    /// The NAR hashes of those of these versions that the host has. `None` when it gives no answer.
    async fn hashes_at(
        &self,
        host: HostId,
        bases: impl Iterator<Item = &Base>,
    ) -> Option<HashMap<StorePath, Option<NarHash>>> {
        let mut paths: Vec<StorePath> = bases.map(|base| base.path.clone()).collect();
        paths.sort();
        paths.dedup();
        // Failures are reported by the pool.
        let lease = self.bookkeeping.pool.lease_in_background(host, None).await;
        let infos = lease.ok()?.query_path_infos(&paths).await;
        let infos = infos.inspect_err(|error| log::debug!("{error}")).ok()?;
        let hashes = infos.into_iter().map(|info| (info.path, info.nar_hash));
        Some(hashes.collect())
    }
}

/// The first version that the host has too; else the most similar one that is here. Blocks.
fn choose(
    host: HostId,
    bases: Vec<Base>,
    at_host: &HashMap<StorePath, Option<NarHash>>,
) -> Option<ChosenBase> {
    let is_there = |base: &Base| match at_host.get(&base.path) {
        Some(theirs) => base.nar_hash.is_none() || *theirs == base.nar_hash,
        None => false,
    };
    let at = bases.iter().position(is_there);
    let base = bases.into_iter().nth(at.unwrap_or(0))?;
    let files = BaseFiles::list(&base.files);
    let files = files.inspect_err(|error| log::debug!("{}: {error}", base.files.display()));
    Some(ChosenBase {
        host,
        path: base.path,
        files: files.ok()?,
        at_host: at.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(digit: char) -> StorePath {
        let hash: String = std::iter::repeat_n(digit, 32).collect();
        StorePath::parse(&format!("/nix/store/{hash}-a")).unwrap()
    }

    #[test]
    fn a_version_that_the_host_has_too_comes_before_a_more_similar_one() {
        let folder = tempfile::tempdir().unwrap();
        let hash = |byte| Some(NarHash::new([byte; 32]));
        let base = |digit, byte| Base {
            path: path(digit),
            files: folder.path().to_owned(),
            nar_hash: hash(byte),
        };
        let bases = || vec![base('1', 1), base('2', 2), base('3', 3)];
        let chosen = |at_host: &[(char, Option<NarHash>)]| {
            let at_host = at_host.iter().map(|(digit, hash)| (path(*digit), *hash));
            let chosen = choose(HostId::at(0), bases(), &at_host.collect()).unwrap();
            (chosen.path, chosen.at_host)
        };
        assert_eq!(chosen(&[]), (path('1'), false));
        assert_eq!(chosen(&[('3', hash(3))]), (path('3'), true));
        let other_build = [('1', hash(9)), ('2', hash(2))];
        assert_eq!(chosen(&other_build), (path('2'), true));
    }
}
