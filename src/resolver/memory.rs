//! The two tiers as one: what is learnt goes into both, what is forgotten goes from both.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::Found;
use super::gone::Gone;
use super::known::{Answer, Checked, Known, Says};
use super::shelf::{DiskTier, Shelf};
use super::trust::{Distrust, Glance, Reason, Trust};
use crate::cache::disk::{Said, unix_seconds};
use crate::cache::{Lifetimes, MemoryCache};
use crate::model::{Content, PathInfo, StorePath};
use crate::pool::{HostId, Pool};

/// How much is remembered, in bytes as [`Known::weight`] guesses them: some 100,000 paths of usual kind.
/// What hosts tell of a path may be long.
const REMEMBERED: u64 = 96 << 20;

/// How many paths are read ahead from the disk at a time.
const READ_AHEAD: usize = 20_000;

/// What is known of all paths.
pub(super) struct Memory {
    pool: Arc<Pool>,
    trust: Trust,
    paths: Arc<MemoryCache<Arc<Known>>>,
    shelf: Arc<Shelf>,
    /// What was forgotten and not heard again since: the disk may still have it for a moment.
    gone: Mutex<Gone>,
    /// Counts up when others ask.
    callers: AtomicU64,
    /// Hosts whose paths were refused and of which these callers know.
    told: Mutex<HashSet<(HostId, Reason)>>,
}

impl Memory {
    pub(super) fn new(
        pool: Arc<Pool>,
        trust: Trust,
        disk: Option<DiskTier>,
        lifetimes: Lifetimes,
    ) -> Self {
        Self {
            pool,
            trust,
            paths: Arc::new(MemoryCache::weighed(REMEMBERED, |known: &Arc<Known>| {
                known.weight()
            })),
            shelf: Arc::new(Shelf::new(disk, lifetimes)),
            gone: Mutex::default(),
            callers: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// What is known of a path and believed now. Looks at its signatures if nobody has yet: thousands
    /// of infos may have come ahead, and each takes its time.
    pub(super) fn get(&self, path: &StorePath) -> Option<Known> {
        let mut known = self.paths.get(path)?;
        if known.untried().next().is_some() {
            self.try_signatures(path, &known);
            known = self.paths.get(path)?;
        }
        Some(self.valid(&known))
    }

    fn valid(&self, known: &Known) -> Known {
        known.valid(&self.shelf.lifetimes, unix_seconds(), self.callers())
    }

    fn callers(&self) -> u64 {
        self.callers.load(Ordering::Relaxed)
    }

    /// From now on other callers ask: refusals are for those who were told of them.
    pub(super) fn new_callers(&self) {
        self.callers.fetch_add(1, Ordering::Relaxed);
        let told = std::mem::take(&mut *self.told.lock());
        let hosts: HashSet<HostId> = told.into_iter().map(|(host, _)| host).collect();
        for host in hosts {
            self.pool.close_idle(host, 0);
        }
    }

    /// What is remembered of a path, whether or not anybody has looked at the signatures.
    pub(super) fn untried(&self, path: &StorePath) -> Option<Known> {
        self.paths.get(path).map(|known| self.valid(&known))
    }

    /// Whether this host has said something of a path that is remembered now, as far as signatures were
    /// looked at.
    pub(super) fn has_said(&self, host: HostId, path: &StorePath) -> bool {
        self.untried(path)
            .is_some_and(|known| known.of(host).is_some())
    }

    /// Whether an answer counts without asking the host again, as far as time decides.
    pub(super) fn is_checked(&self, answer: &Answer) -> bool {
        answer.is_checked(&self.shelf.lifetimes, unix_seconds())
    }

    /// For how long answers are remembered.
    pub(super) fn lifetimes(&self) -> &Lifetimes {
        &self.shelf.lifetimes
    }

    /// Whether this host has told of a path what is believed now, and what is not known to be refused.
    /// Looks at no signature.
    pub(super) fn has_been_told(&self, host: HostId, path: &StorePath) -> bool {
        let known = self.paths.get(path).map(|known| self.valid(&known));
        let has = |known: &Known| known.of(host).is_some_and(|a| a.says.info().is_some());
        known.as_ref().is_some_and(has)
    }

    /// Whether nobody has looked yet at signatures of what is known of a path.
    pub(super) fn is_untried(&self, path: &StorePath) -> bool {
        let known = self.paths.get(path);
        known.is_some_and(|known| known.untried().next().is_some())
    }

    fn try_signatures(&self, path: &StorePath, known: &Known) {
        let mut verdicts = Vec::new();
        for (host, info, from_disk) in known.untried() {
            let counts = match from_disk {
                // See `note`.
                true => self.trust.check(self.pool.host(host), info).is_ok(),
                false => self.accepts(host, info),
            };
            let says = match counts {
                true => Some(Says::Has(info.clone())),
                false if from_disk => None,
                false => Some(Says::Refused(self.callers())),
            };
            verdicts.push((host, info, says));
        }
        self.paths.update(path, |known| {
            let mut known = known.unwrap_or_default();
            for (host, info, says) in verdicts {
                Arc::make_mut(&mut known).settle(host, info, says);
            }
            known
        });
    }

    /// All that is known.
    pub(super) fn all(&self) -> impl Iterator<Item = (StorePath, Arc<Known>)> + '_ {
        self.paths.all()
    }

    /// Takes note of a host's answer to a question about `asked`.
    pub(super) fn heard(&self, host: HostId, asked: &[StorePath], infos: &[Arc<PathInfo>]) {
        let checked_at = unix_seconds();
        let has: HashSet<&StorePath> = infos.iter().map(|info| &info.path).collect();
        let lacks = asked.iter().filter(|path| !has.contains(path));
        let said = infos
            .iter()
            .map(|info| (&info.path, Some(info.clone())))
            .chain(lacks.map(|path| (path, None)))
            .map(|(path, info)| Said {
                path: path.clone(),
                info,
                checked_at,
            });
        let said: Vec<_> = said.collect();
        for said in &said {
            self.gone.lock().remove(host, &said.path);
            self.note(host, said, false);
        }
        self.shelf.said(host, said);
    }

    /// A host was asked at `asked_at` (seconds of Unix time) which of `asked` it has: those of `there`.
    /// Gives those of which it said something else before.
    pub(super) fn checked(
        &self,
        host: HostId,
        asked: &[StorePath],
        there: &HashSet<&StorePath>,
        asked_at: u64,
    ) -> Vec<StorePath> {
        let now = unix_seconds();
        let (mut still, mut changed, mut said) = (Vec::new(), Vec::new(), Vec::new());
        for path in asked {
            let has = there.contains(path);
            let mut became = Checked::Unknown;
            self.paths.change(path, |known| {
                // What it said since is newer.
                let older = |answer: &Answer| answer.checked_at <= asked_at;
                if known.of(host).is_some_and(older) {
                    became = Arc::make_mut(known).checked(host, has, now);
                }
            });
            match became {
                Checked::Unknown => continue,
                Checked::StillHas => still.push(path.clone()),
                Checked::Appeared => {
                    self.gone.lock().insert(host, path, Instant::now());
                    self.shelf.gone(host, path);
                }
                Checked::StillLacks | Checked::Gone => said.push(Said {
                    path: path.clone(),
                    info: None,
                    checked_at: now,
                }),
            }
            if matches!(became, Checked::Appeared | Checked::Gone) {
                changed.push(path.clone());
            }
        }
        self.shelf.still_has(host, still, now);
        self.shelf.said(host, said);
        changed
    }

    /// Learns what other processes know of these paths and, as `ahead` wants it, of what they refer
    /// to.
    pub(super) async fn look_up(&self, paths: &[StorePath], ahead: bool) {
        let known = self.paths.clone();
        let most = if ahead { READ_AHEAD } else { 0 };
        let found = self
            .shelf
            .look_up(paths, most, move |path| known.get(path).is_some())
            .await;
        let hosts: Vec<HostId> = self.pool.hosts().collect();
        for (place, said) in found {
            let host = hosts[place];
            let is_gone = self.gone.lock().contains(host, &said.path, Instant::now());
            if !is_gone {
                self.note(host, &said, true);
            }
        }
    }

    fn note(&self, host: HostId, said: &Said, from_disk: bool) {
        let says = match &said.info {
            None => Says::Lacks,
            Some(info) => match self.trust.glance(self.pool.host(host), info) {
                Glance::Counts => Says::Has(info.clone()),
                Glance::Signed => Says::Untried(info.clone()),
                // It may have been signed since.
                Glance::Refused(_) if from_disk => return,
                Glance::Refused(distrust) => {
                    self.notify(host, &distrust);
                    Says::Refused(self.callers())
                }
            },
        };
        let answer = Answer {
            host,
            says,
            checked_at: said.checked_at,
            from_disk,
        };
        self.paths.update(&said.path, |known| {
            let mut known = known.unwrap_or_default();
            // What this process heard itself is newer.
            let older = |old: &Answer| old.from_disk && old.checked_at <= answer.checked_at;
            if !from_disk || known.of(host).is_none_or(older) {
                Arc::make_mut(&mut known).add(answer);
            }
            known
        });
    }

    /// Whether an info of this host counts. The user is told of the first that does not, for each
    /// reason.
    pub(super) fn accepts(&self, host: HostId, info: &PathInfo) -> bool {
        let checked = self.trust.check(self.pool.host(host), info);
        checked
            .map_err(|distrust| self.notify(host, &distrust))
            .is_ok()
    }

    /// What a caller is told now of a path of which this is known.
    pub(super) fn tell(&self, known: &Known) -> Option<Found> {
        let mut found = known.tell()?;
        // Of files all versions of Nix make the same addresses: what belies those is wrong, whoever sends it.
        let is_in_doubt = matches!(found.info.content(), Ok(Content::NarWithoutSelf(_)));
        let hash = found.info.nar_hash;
        let vouches = |(host, info): (HostId, &Arc<PathInfo>)| {
            info.nar_hash == hash && self.trust.vouches(self.pool.host(host), info)
        };
        if is_in_doubt && known.holders().any(vouches) {
            let mut info = (*found.info).clone();
            info.ca = None;
            found.to_fetch = Arc::new(info);
        }
        Some(found)
    }

    fn notify(&self, host: HostId, distrust: &Distrust) {
        if self.told.lock().insert((host, distrust.reason())) {
            self.pool.notify(distrust);
        }
    }

    /// What a host said of a path is no longer true.
    pub(super) fn forget_at(&self, host: HostId, path: &StorePath) {
        self.gone.lock().insert(host, path, Instant::now());
        self.paths
            .change(path, |known| Arc::make_mut(known).remove(host));
        self.shelf.gone(host, path);
    }

    /// All about a path, in memory: with the hash that callers were told.
    pub(super) fn forget(&self, path: &StorePath) {
        self.paths.forget(path);
    }

    /// All that a host said, in memory.
    pub(super) fn forget_host(&self, host: HostId) {
        let all: Vec<StorePath> = self.paths.all().map(|(path, _)| path).collect();
        for path in all {
            self.paths
                .change(&path, |known| Arc::make_mut(known).remove(host));
        }
    }

    pub(super) async fn flush(&self) {
        self.shelf.flush().await;
    }
}
