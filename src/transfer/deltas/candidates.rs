//! Which paths are fetched as differences, and from which version here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::chosen_base::{self, ChosenBase};
use super::delta_options::{DeltaOptions, PatchMemory};
use super::fault::DeltaFault;
use super::rebuild::Rebuild;
use super::{BASES_MAX, Base, BaseLookup};
use crate::config::host::DeltaMode;
use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, Pool};
use crate::transfer::blocking;
use crate::transfer::chunks::FAR;
use crate::transfer::hosts::{HostBookkeeping, Way};

/// The smallest NAR, in bytes, that is worth the round trips and the processes at the host, wherever it is.
const MIN_SIZE: u64 = 64 << 10;

/// The same where the throughput of the host is not known: on a fast line as much comes in the time that those take.
const MIN_UNMEASURED: u64 = 1 << 20;

/// What those processes cost, in seconds of a host's processor: a NAR that comes in less is not worth them.
const OVERHEAD_SECS: f64 = 0.012;

/// What one more process costs, that makes the patch of one file.
const PATCH_SECS: f64 = 0.004;

/// A throughput in bytes a second from which on bytes are not worth sparing. What comes compressed counts with what it is
/// decompressed, so this is more than a link of 100 Mbit/s delivers.
const FAST: u64 = 60_000_000;

/// How often one thing is decided of a path at most: whether it can be made from what is here, and whether it comes as
/// differences.
const DECIDING_STEPS: usize = 3;

/// How many decisions are remembered.
const MAX_DECISIONS: usize = 50_000;

/// Whether a path comes as differences.
pub(in crate::transfer) enum DeltaState {
    No,
    /// It has to be found out, by [`Deltas::decide`].
    Undecided(HostId),
    /// It may be made from what is here alone.
    Rebuild(Arc<Rebuild>),
    Yes(Arc<ChosenBase>),
}

/// What is known of a path.
#[derive(Clone)]
enum Decision {
    /// It does not come so.
    Never,
    Rebuild(Arc<Rebuild>),
    /// It cannot be made from what is here alone. Whether it comes as differences is not known.
    NoRebuild,
    Differences(Arc<ChosenBase>),
}

/// Decides which paths come as differences.
pub(in crate::transfer) struct Deltas {
    bookkeeping: Arc<HostBookkeeping>,
    lookup: Option<Arc<dyn BaseLookup>>,
    decided: Mutex<HashMap<StorePath, Decision>>,
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

    /// Whether a path may come as differences from any host. Cheaper than to look its holders up.
    pub(in crate::transfer) fn is_possible(&self, info: &PathInfo) -> bool {
        self.lookup.is_some()
            && info.nar_hash.is_some()
            && match self.decided.lock().get(&info.path) {
                Some(Decision::Never) => false,
                Some(Decision::NoRebuild) => info.nar_size >= MIN_SIZE,
                Some(_) => true,
                None => self.may_rebuild_any() || info.nar_size >= MIN_SIZE,
            }
    }

    fn may_rebuild_any(&self) -> bool {
        self.pool().hosts().any(|host| self.may_rebuild(host))
    }

    /// Paths will be fetched soon: has it found out which versions are here, if that may be of use. Whether it is found out.
    pub(in crate::transfer) fn prepare(&self) -> bool {
        let Some(lookup) = self.lookup.clone() else {
            return true;
        };
        let is_useful = self.may_rebuild_any();
        if is_useful && lookup.may_block() {
            // It goes on by itself.
            drop(tokio::task::spawn_blocking(move || lookup.find(&[])));
        }
        is_useful
    }

    /// Whether a path comes as differences, as far as is known.
    pub(in crate::transfer) fn state(&self, info: &PathInfo, holders: &[HostId]) -> DeltaState {
        if !self.is_possible(info) {
            return DeltaState::No;
        }
        let mut known = self.decided.lock().get(&info.path).cloned();
        if known.is_none()
            && self
                .lookup
                .as_ref()
                .is_some_and(|lookup| !lookup.may_find(&info.path))
        {
            // Most paths: nothing is to wait for what comes of a question.
            self.reject(&info.path);
            known = Some(Decision::Never);
        }
        let mut holders = holders.iter().copied();
        let host = match known {
            Some(Decision::Never) => None,
            Some(Decision::Rebuild(rebuild)) => return DeltaState::Rebuild(rebuild),
            Some(Decision::Differences(base)) => {
                let suits = holders.any(|host| host == base.host) && self.suits(base.host, info);
                return if suits {
                    DeltaState::Yes(base)
                } else {
                    DeltaState::No
                };
            }
            Some(Decision::NoRebuild) => holders.find(|host| self.suits(*host, info)),
            None => holders.find(|host| self.may_rebuild(*host) || self.suits(*host, info)),
        };
        host.map_or(DeltaState::No, DeltaState::Undecided)
    }

    /// Whether it is worth trying to make paths of that host from what is here: it costs the host nothing, but has to be
    /// faster than the line.
    fn may_rebuild(&self, host: HostId) -> bool {
        let bookkeeping = &self.bookkeeping;
        match bookkeeping.pool.host(host).delta {
            DeltaMode::Off => false,
            DeltaMode::Always => true,
            DeltaMode::Auto => {
                bookkeeping.is_behind_a_line(host)
                    && bookkeeping
                        .throughput
                        .of(host)
                        .is_none_or(|rate| rate < FAST)
            }
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
                // It would have come before its rate is known.
                None => {
                    let is_far = pool.latency(host).is_some_and(|latency| latency >= FAR);
                    is_far && info.nar_size >= MIN_UNMEASURED
                }
            };
        is_slow
            && info.nar_size >= MIN_SIZE
            && mode != DeltaMode::Off
            && pool.may_compress(host)
            && pool.is_healthy(host)
            // One for this, one for everything else.
            && pool.background_limit(host) >= 2
            && !bookkeeping.sent_wrong_content(host, &info.path)
    }

    /// Decides for these paths, all undecided for `host`: whether they can be made from what is here alone; of those that
    /// cannot, whether they come as differences.
    pub(in crate::transfer) async fn decide(&self, host: HostId, wanted: Vec<Arc<PathInfo>>) {
        let (new, known): (Vec<_>, Vec<_>) = {
            let decided = self.decided.lock();
            let is_new = |info: &Arc<PathInfo>| !decided.contains_key(&info.path);
            wanted.into_iter().partition(is_new)
        };
        if !new.is_empty() {
            let found = self.find_rebuilds(host, &new).await;
            self.record_decisions(&new, found);
        }
        if !known.is_empty() {
            let found = self.find(host, &known).await;
            let found = found.into_iter().map(|base| match base {
                Some(base) => Decision::Differences(Arc::new(base)),
                None => Decision::Never,
            });
            self.record_decisions(&known, found.collect());
        }
    }

    fn record_decisions(&self, wanted: &[Arc<PathInfo>], found: Vec<Decision>) {
        for (info, decision) in wanted.iter().zip(found) {
            match &decision {
                Decision::Differences(base) => log::debug!(
                    "{}: {} is here, at the host too: {}",
                    info.path,
                    base.path,
                    base.at_host
                ),
                Decision::Rebuild(_) => log::debug!("{} may be made from what is here", info.path),
                Decision::Never | Decision::NoRebuild => {}
            }
            self.remember(&info.path, decision);
        }
    }

    fn remember(&self, path: &StorePath, decision: Decision) {
        let mut decided = self.decided.lock();
        if decided.len() >= MAX_DECISIONS {
            decided.clear();
        }
        decided.insert(path.clone(), decision);
    }

    /// How that host is asked.
    pub(in crate::transfer) fn options(&self, host: HostId) -> DeltaOptions {
        let rate = self.bookkeeping.throughput.of(host).unwrap_or_default();
        DeltaOptions {
            level: self.pool().host(host).compression.level,
            patch_min: (rate as f64 * PATCH_SECS) as u64,
            rate,
            memory: self.memory.clone(),
            may_block: self.may_block(),
        }
    }

    /// The same as [`Deltas::state`], once it is decided.
    pub(in crate::transfer) async fn decided(
        &self,
        info: &PathInfo,
        holders: &[HostId],
    ) -> DeltaState {
        for _ in 0..DECIDING_STEPS {
            match self.state(info, holders) {
                DeltaState::Undecided(host) => {
                    self.decide(host, vec![Arc::new(info.clone())]).await;
                }
                decided => return decided,
            }
        }
        DeltaState::No
    }

    /// It does not come as differences after all.
    pub(in crate::transfer) fn reject(&self, path: &StorePath) {
        self.remember(path, Decision::Never);
    }

    /// It cannot be made from what is here alone.
    pub(in crate::transfer) fn reject_rebuild(&self, path: &StorePath, reason: &str) {
        log::debug!("{path} cannot be made from what is here: {reason}");
        self.remember(path, Decision::NoRebuild);
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

    fn may_block(&self) -> bool {
        self.lookup
            .as_ref()
            .is_some_and(|lookup| lookup.may_block())
    }

    /// The other versions of these paths that are here.
    async fn look_up(&self, wanted: &[Arc<PathInfo>]) -> Vec<Vec<Base>> {
        let Some(lookup) = self.lookup.clone() else {
            return vec![Vec::new(); wanted.len()];
        };
        let paths: Vec<StorePath> = wanted.iter().map(|info| info.path.clone()).collect();
        let found = blocking::run(self.may_block(), move || lookup.find(&paths)).await;
        let mut found = found.unwrap_or_default();
        found.resize_with(wanted.len(), Vec::new);
        for (info, bases) in wanted.iter().zip(&mut found) {
            bases.retain(|base| base.path != info.path);
            bases.truncate(BASES_MAX);
        }
        found
    }

    async fn find_rebuilds(&self, host: HostId, wanted: &[Arc<PathInfo>]) -> Vec<Decision> {
        let found = self.look_up(wanted).await;
        let decide = |(info, bases): (&Arc<PathInfo>, Vec<Base>)| {
            if bases.is_empty() {
                return Decision::Never;
            }
            let may_rebuild = self.may_rebuild(host);
            let lookup = self.lookup.as_ref().filter(|_| may_rebuild);
            let rebuild = lookup.and_then(|lookup| Rebuild::find(host, info, bases, lookup));
            rebuild.map_or(Decision::NoRebuild, |rebuild| {
                Decision::Rebuild(Arc::new(rebuild))
            })
        };
        wanted.iter().zip(found).map(decide).collect()
    }

    async fn find(&self, host: HostId, wanted: &[Arc<PathInfo>]) -> Vec<Option<ChosenBase>> {
        let none = || wanted.iter().map(|_| None).collect();
        let found = self.look_up(wanted).await;
        if found.iter().all(Vec::is_empty) {
            return none();
        }
        let Some(at_host) = self.infos_at(host, found.iter().flatten()).await else {
            return none();
        };
        let wanted = wanted.to_vec();
        let choose = move || {
            let found = wanted.iter().zip(found);
            let chosen =
                found.map(|(info, bases)| chosen_base::choose(host, info, bases, &at_host));
            chosen.collect()
        };
        let chosen = blocking::run(self.may_block(), choose).await;
        chosen.unwrap_or_else(|_| none())
    }

    /// The infos of those of these versions that the host has. `None` when it gives no answer.
    async fn infos_at(
        &self,
        host: HostId,
        bases: impl Iterator<Item = &Base>,
    ) -> Option<HashMap<StorePath, PathInfo>> {
        let mut paths: Vec<StorePath> = bases.map(|base| base.path.clone()).collect();
        paths.sort();
        paths.dedup();
        // Failures are reported by the pool.
        let lease = self.bookkeeping.pool.lease_in_background(host, None).await;
        let infos = lease.ok()?.query_path_infos(&paths).await;
        let infos = infos.inspect_err(|error| log::debug!("{error}")).ok()?;
        let infos = infos.into_iter().map(|info| (info.path.clone(), info));
        Some(infos.collect())
    }
}
