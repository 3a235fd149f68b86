//! The two tiers as one: what is learnt goes into both, what is forgotten goes from both.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::known::{Answer, Known, Says};
use super::shelf::{DiskTier, Shelf};
use super::trust::Trust;
use crate::cache::disk::{Said, unix_seconds};
use crate::cache::{Lifetimes, MemoryCache};
use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, Pool};

/// How many paths are remembered.
const REMEMBERED: u64 = 200_000;

/// How many paths are read ahead from the disk at a time.
const READ_AHEAD: usize = 20_000;

/// What is known of all paths.
pub(super) struct Memory {
    pool: Arc<Pool>,
    trust: Trust,
    paths: Arc<MemoryCache<Arc<Known>>>,
    shelf: Arc<Shelf>,
    // Both held for a look or an insert only.
    /// What was forgotten and not heard again since: the disk may still have it for a moment.
    gone: Mutex<HashSet<(HostId, StorePath)>>,
    /// Hosts whose paths were refused and of which the user knows.
    told: Mutex<HashSet<(HostId, &'static str)>>,
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
            paths: Arc::new(MemoryCache::new(REMEMBERED)),
            shelf: Arc::new(Shelf::new(disk, lifetimes)),
            gone: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// What is known of a path and believed now.
    pub(super) fn get(&self, path: &StorePath) -> Option<Known> {
        let known = self.paths.get(path)?;
        Some(known.valid(&self.shelf.lifetimes, unix_seconds()))
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
            lock(&self.gone).remove(&(host, said.path.clone()));
            self.note(host, said, false);
        }
        self.shelf.said(host, said);
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
            let is_gone = lock(&self.gone).contains(&(host, said.path.clone()));
            if !is_gone {
                self.note(host, &said, true);
            }
        }
    }

    fn note(&self, host: HostId, said: &Said, from_disk: bool) {
        let says = match &said.info {
            None => Says::Lacks,
            Some(info) if self.accepts(host, info) => Says::Has(info.clone()),
            Some(_) => Says::Refused,
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
            if !from_disk || known.of(host).is_none_or(|old| old.from_disk) {
                Arc::make_mut(&mut known).add(answer);
            }
            known
        });
    }

    /// Refusals are told once more.
    pub(super) fn tell_again(&self) {
        lock(&self.told).clear();
    }

    /// Whether an info of this host counts. The user is told of the first that does not.
    pub(super) fn accepts(&self, host: HostId, info: &PathInfo) -> bool {
        match self.trust.check(self.pool.host(host), info) {
            Ok(()) => true,
            Err(distrust) => {
                if lock(&self.told).insert((host, distrust.reason())) {
                    self.pool.notify(&distrust);
                }
                false
            }
        }
    }

    /// What a host said of a path is no longer true.
    pub(super) fn forget_at(&self, host: HostId, path: &StorePath) {
        lock(&self.gone).insert((host, path.clone()));
        if self.paths.get(path).is_some() {
            self.paths.update(path, |known| {
                let mut known = known.unwrap_or_default();
                Arc::make_mut(&mut known).remove(host);
                known
            });
        }
        self.shelf.gone(host, path);
    }

    /// All about a path, in memory: with the hash that callers were told.
    pub(super) fn forget(&self, path: &StorePath) {
        self.paths.forget(path);
    }

    pub(super) async fn flush(&self) {
        self.shelf.flush().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
