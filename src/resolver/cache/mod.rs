//! Both cache tiers as one: what is learnt is written to both, what is forgotten is removed from both.

mod disk_tier;
mod host_answer;
mod name_index;
mod path_record;
mod recently_gone;

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::Found;
use super::trust::{Distrust, QuickCheck, Reason, Trust};
use crate::cache::disk::{CachedAnswer, unix_seconds};
use crate::cache::{Lifetimes, MemoryCache};
use crate::model::{Content, PathInfo, StorePath};
use crate::pool::{HostId, Pool};
use disk_tier::DiskTier;
pub use disk_tier::KeyedDisk;
use host_answer::CheckOutcome;
pub(super) use host_answer::{AnswerKind, HostAnswer};
use name_index::NameIndex;
pub(super) use path_record::PathRecord;
use recently_gone::RecentlyGone;

/// How much is remembered, in bytes as [`PathRecord::weight`] estimates them: some 100,000 usual paths. Infos
/// from hosts may be long.
const CACHE_WEIGHT_MAX: u64 = 96 << 20;

/// How many paths are read ahead from the disk at a time.
const DISK_READAHEAD_PATHS: usize = 20_000;

/// What is known of all paths, in both tiers.
pub(super) struct PathInfoCache {
    pool: Arc<Pool>,
    trust: Trust,
    paths: Arc<MemoryCache<Arc<PathRecord>>>,
    disk_tier: Arc<DiskTier>,
    /// What hosts have named.
    pub(super) names: NameIndex,
    /// Answers that were forgotten a moment ago: the disk tier may still have them.
    gone: Mutex<RecentlyGone>,
    /// The generation of callers: refusals were reported to those of one generation.
    caller_generation: AtomicU64,
    /// Refusals that this generation of callers knows of.
    reported: Mutex<HashSet<(HostId, Reason)>>,
}

impl PathInfoCache {
    pub(super) fn new(
        pool: Arc<Pool>,
        trust: Trust,
        disk: Option<KeyedDisk>,
        lifetimes: Lifetimes,
    ) -> Self {
        Self {
            pool,
            trust,
            paths: Arc::new(MemoryCache::weighed(
                CACHE_WEIGHT_MAX,
                |record: &Arc<PathRecord>| record.weight(),
            )),
            disk_tier: Arc::new(DiskTier::new(disk, lifetimes)),
            names: NameIndex::default(),
            gone: Mutex::default(),
            caller_generation: AtomicU64::new(0),
            reported: Mutex::default(),
        }
    }

    /// The valid answers about a path. Verifies signatures only now: thousands of infos may have been
    /// prefetched, and each takes about 0.1 ms.
    pub(super) fn get(&self, path: &StorePath) -> Option<PathRecord> {
        let mut record = self.paths.get(path)?;
        if record.unverified().next().is_some() {
            self.verify_signatures(path, &record);
            record = self.paths.get(path)?;
        }
        Some(self.valid(&record))
    }

    fn valid(&self, record: &PathRecord) -> PathRecord {
        record.valid(
            &self.disk_tier.lifetimes,
            unix_seconds(),
            self.caller_generation(),
        )
    }

    fn caller_generation(&self) -> u64 {
        self.caller_generation.load(Ordering::Relaxed)
    }

    /// Begins a new generation of callers: refusals are reported to it again.
    pub(super) fn next_caller_generation(&self) {
        self.caller_generation.fetch_add(1, Ordering::Relaxed);
        let reported = std::mem::take(&mut *self.reported.lock());
        let hosts: HashSet<HostId> = reported.into_iter().map(|(host, _)| host).collect();
        for host in hosts {
            self.pool.close_idle(host, 0);
        }
    }

    /// The valid answers about a path, with signatures verified or not.
    pub(super) fn get_unverified(&self, path: &StorePath) -> Option<PathRecord> {
        self.paths.get(path).map(|record| self.valid(&record))
    }

    /// Whether there is a valid answer of this host about a path, verified or not.
    pub(super) fn has_answer_from(&self, host: HostId, path: &StorePath) -> bool {
        self.get_unverified(path)
            .is_some_and(|record| record.answer_of(host).is_some())
    }

    /// Whether an answer counts without asking the host again, as far as time decides.
    pub(super) fn is_checked(&self, answer: &HostAnswer) -> bool {
        answer.is_checked(&self.disk_tier.lifetimes, unix_seconds())
    }

    /// For how long answers are remembered.
    pub(super) fn lifetimes(&self) -> &Lifetimes {
        &self.disk_tier.lifetimes
    }

    /// Whether this host has the path by a valid answer that is not known to be refused. Verifies no signature.
    pub(super) fn has_info_from(&self, host: HostId, path: &StorePath) -> bool {
        let record = self.get_unverified(path);
        let answer = record.as_ref().and_then(|record| record.answer_of(host));
        answer.is_some_and(|answer| answer.kind.info().is_some())
    }

    /// Whether an answer about a path has an unverified signature.
    pub(super) fn has_unverified(&self, path: &StorePath) -> bool {
        let record = self.paths.get(path);
        record.is_some_and(|record| record.unverified().next().is_some())
    }

    fn verify_signatures(&self, path: &StorePath, record: &PathRecord) {
        let mut verdicts = Vec::new();
        for (host, info, from_disk) in record.unverified() {
            let counts = match from_disk {
                // See `insert`.
                true => self.trust.check(self.pool.host(host), info).is_ok(),
                false => self.is_accepted(host, info),
            };
            let kind = match counts {
                true => Some(AnswerKind::Has(info.clone())),
                false if from_disk => None,
                false => Some(AnswerKind::Refused(self.caller_generation())),
            };
            verdicts.push((host, info, kind));
        }
        self.paths.update(path, |record| {
            let mut record = record.unwrap_or_default();
            for (host, info, kind) in verdicts {
                Arc::make_mut(&mut record).set_verified(host, info, kind);
            }
            record
        });
    }

    /// All records.
    pub(super) fn all(&self) -> impl Iterator<Item = (StorePath, Arc<PathRecord>)> + '_ {
        self.paths.all()
    }

    /// Records a host's reply to a question about `asked`.
    pub(super) fn record_answers(
        &self,
        host: HostId,
        asked: &[StorePath],
        infos: &[Arc<PathInfo>],
    ) {
        let checked_at = unix_seconds();
        let has: HashSet<&StorePath> = infos.iter().map(|info| &info.path).collect();
        let lacks = asked.iter().filter(|path| !has.contains(path));
        let answers = infos
            .iter()
            .map(|info| (&info.path, Some(info.clone())))
            .chain(lacks.map(|path| (path, None)))
            .map(|(path, info)| CachedAnswer {
                path: path.clone(),
                info,
                checked_at,
            });
        let answers: Vec<_> = answers.collect();
        for answer in &answers {
            self.gone.lock().remove(host, &answer.path);
            self.insert(host, answer, false);
        }
        self.disk_tier.write_answers(host, answers);
    }

    /// Records that a host, asked at `asked_at` (seconds of Unix time) which of `asked` it has, has those of
    /// `there`. Gives the paths of which it said something else before.
    pub(super) fn record_check(
        &self,
        host: HostId,
        asked: &[StorePath],
        there: &HashSet<&StorePath>,
        asked_at: u64,
    ) -> Vec<StorePath> {
        let now = unix_seconds();
        let (mut still, mut changed, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for path in asked {
            let has = there.contains(path);
            let mut became = CheckOutcome::Unknown;
            self.paths.change(path, |record| {
                // Its answers since then are newer.
                let older = |answer: &HostAnswer| answer.checked_at <= asked_at;
                if record.answer_of(host).is_some_and(older) {
                    became = Arc::make_mut(record).record_check(host, has, now);
                }
            });
            match became {
                CheckOutcome::Unknown => continue,
                CheckOutcome::StillHas => still.push(path.clone()),
                CheckOutcome::Appeared => {
                    self.gone.lock().insert(host, path, Instant::now());
                    self.disk_tier.write_removed(host, path);
                }
                CheckOutcome::StillLacks | CheckOutcome::Gone => answers.push(CachedAnswer {
                    path: path.clone(),
                    info: None,
                    checked_at: now,
                }),
            }
            if matches!(became, CheckOutcome::Appeared | CheckOutcome::Gone) {
                changed.push(path.clone());
            }
        }
        self.disk_tier.write_still_has(host, still, now);
        self.disk_tier.write_answers(host, answers);
        changed
    }

    /// Reads from the disk tier what other processes learnt of these paths and, with `ahead`, of what they
    /// refer to.
    pub(super) async fn look_up(&self, paths: &[StorePath], ahead: bool) {
        let record = self.paths.clone();
        let most = if ahead { DISK_READAHEAD_PATHS } else { 0 };
        let found = self
            .disk_tier
            .look_up(paths, most, move |path| record.get(path).is_some())
            .await;
        let hosts: Vec<HostId> = self.pool.hosts().collect();
        for (index, answer) in found {
            let host = hosts[index];
            let is_gone = self
                .gone
                .lock()
                .contains(host, &answer.path, Instant::now());
            if !is_gone {
                self.insert(host, &answer, true);
            }
        }
    }

    fn insert(&self, host: HostId, cached: &CachedAnswer, from_disk: bool) {
        let kind = match &cached.info {
            None => AnswerKind::Lacks,
            Some(info) => match self.trust.quick_check(self.pool.host(host), info) {
                QuickCheck::Accepted => AnswerKind::Has(info.clone()),
                QuickCheck::NeedsVerification => AnswerKind::Unverified(info.clone()),
                // It may have been signed since.
                QuickCheck::Refused(_) if from_disk => return,
                QuickCheck::Refused(distrust) => {
                    self.notify(host, &distrust);
                    AnswerKind::Refused(self.caller_generation())
                }
            },
        };
        if let AnswerKind::Has(info) | AnswerKind::Unverified(info) = &kind {
            self.names
                .record(std::iter::once(&info.path).chain(&info.references));
        }
        let answer = HostAnswer {
            host,
            kind,
            checked_at: cached.checked_at,
            from_disk,
        };
        self.paths.update(&cached.path, |record| {
            let mut record = record.unwrap_or_default();
            // Answers that this process got itself are newer.
            let older = |old: &HostAnswer| old.from_disk && old.checked_at <= answer.checked_at;
            if !from_disk || record.answer_of(host).is_none_or(older) {
                Arc::make_mut(&mut record).insert(answer);
            }
            record
        });
    }

    /// Whether an info of this host counts. The first refusal of each kind is reported to the user.
    pub(super) fn is_accepted(&self, host: HostId, info: &PathInfo) -> bool {
        let checked = self.trust.check(self.pool.host(host), info);
        checked
            .map_err(|distrust| self.notify(host, &distrust))
            .is_ok()
    }

    /// The answer to a caller, from what is known of a path.
    pub(super) fn best_match(&self, record: &PathRecord) -> Option<Found> {
        let mut found = record.best_match()?;
        // Addresses of paths without self-references are the same in all versions of Nix, so a NAR that does
        // not match one is wrong, whoever sends it.
        let is_in_doubt = matches!(found.info.content(), Ok(Content::NarWithoutSelf(_)));
        let hash = found.info.nar_hash;
        let vouches = |(host, info): (HostId, &Arc<PathInfo>)| {
            info.nar_hash == hash && self.trust.vouches(self.pool.host(host), info)
        };
        if is_in_doubt && record.holders().any(vouches) {
            let mut info = (*found.info).clone();
            info.ca = None;
            found.to_fetch = Arc::new(info);
        }
        Some(found)
    }

    fn notify(&self, host: HostId, distrust: &Distrust) {
        if self.reported.lock().insert((host, distrust.reason())) {
            self.pool.notify(distrust);
        }
    }

    /// Forgets a host's answer about a path, in both tiers.
    pub(super) fn forget_at(&self, host: HostId, path: &StorePath) {
        self.gone.lock().insert(host, path, Instant::now());
        self.paths
            .change(path, |record| Arc::make_mut(record).remove(host));
        self.disk_tier.write_removed(host, path);
    }

    /// Forgets a path in the memory tier, with the hash that was advertised for it.
    pub(super) fn forget(&self, path: &StorePath) {
        self.paths.forget(path);
    }

    /// Forgets all answers of a host in the memory tier.
    pub(super) fn forget_host(&self, host: HostId) {
        let all: Vec<StorePath> = self.paths.all().map(|(path, _)| path).collect();
        for path in all {
            self.paths
                .change(&path, |record| Arc::make_mut(record).remove(host));
        }
    }

    pub(super) async fn flush(&self) {
        self.disk_tier.flush().await;
    }
}
