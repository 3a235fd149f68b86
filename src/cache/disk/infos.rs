//! Hosts' answers about paths: infos, and that they lack a path.
//!
//! Times are seconds of Unix time and come from the caller. A host's store directory is part of
//! which row is meant; paths are kept as base names.
//!
//! | column | holds |
//! | --- | --- |
//! | `host` | row of `cached_hosts`: the host's key and the store directory |
//! | `path` | base name |
//! | `checked_at` | when the host said so |
//! | `nar_size` | NULL: the host lacks the path, and all that follows is NULL too |
//! | `nar_hash` | 32 bytes, or NULL when the host is too old to tell |
//! | `deriver`, `refs` | base names; references with a blank between them |
//! | `sigs` | with a line feed between them |
//!
//! A row that makes no sense is ignored.

mod row;
mod upkeep;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Statement, Transaction, TransactionBehavior};

use super::Disk;
use crate::model::{PathInfo, StorePath};
use row::Row;

pub(super) const TABLES: &str = "CREATE TABLE cached_hosts (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    store_dir TEXT NOT NULL,
    UNIQUE (key, store_dir)
) STRICT;
CREATE TABLE path_infos (
    host INTEGER NOT NULL,
    path TEXT NOT NULL,
    checked_at INTEGER NOT NULL,
    nar_size INTEGER,
    download_size INTEGER,
    nar_hash BLOB,
    deriver TEXT,
    refs TEXT,
    ca TEXT,
    sigs TEXT,
    PRIMARY KEY (host, path)
) WITHOUT ROWID, STRICT;
CREATE TABLE upkeep (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    pruned_at INTEGER NOT NULL,
    written INTEGER NOT NULL
) STRICT;
INSERT INTO upkeep VALUES (1, 0, 0);";

/// How long one question may go on reading references, which will be asked for next.
const READAHEAD_TIMEOUT: Duration = Duration::from_millis(50);

/// For how many seconds a host's answer counts as checked, unless the user has set a lifetime.
const CHECKED_SECONDS: u64 = 10;

/// How far ahead of our clock a row may be, in seconds. Others are not believed.
const CLOCK_SKEW_MAX: u64 = 300;

/// For how long an answer is remembered. Once it is more than a few seconds old, the host is asked again before
/// anything relies on it. Where the user has set a lifetime other than the default, an answer is believed
/// unasked as long as it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// That a host has a path, and what it is.
    pub positive: Duration,
    /// That it lacks one.
    pub negative: Duration,
}

impl Default for Lifetimes {
    /// As in Nix: 30 days and one hour.
    fn default() -> Self {
        Self {
            positive: Duration::from_secs(30 * 24 * 3600),
            negative: Duration::from_secs(3600),
        }
    }
}

impl Lifetimes {
    /// Whether an answer of `checked_at`, that is remembered at `now` (seconds of Unix time), counts
    /// without asking the host again.
    #[must_use]
    pub fn is_checked(&self, has: bool, checked_at: u64, now: u64) -> bool {
        self.is_set(has) || now.abs_diff(checked_at) < CHECKED_SECONDS
    }

    /// Whether the user has set this lifetime to another value than the default.
    #[must_use]
    pub fn is_set(&self, has: bool) -> bool {
        let usual = Self::default();
        match has {
            true => self.positive != usual.positive,
            false => self.negative != usual.negative,
        }
    }

    /// Whether an answer of `checked_at` is still remembered at `now`, both in seconds of Unix time.
    #[must_use]
    pub fn is_fresh(&self, has: bool, checked_at: u64, now: u64) -> bool {
        let lifetime = if has { self.positive } else { self.negative };
        now.saturating_sub(checked_at) < lifetime.as_secs()
            && checked_at <= now.saturating_add(CLOCK_SKEW_MAX)
    }
}

/// A host's answer about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedAnswer {
    /// The path.
    pub path: StorePath,
    /// What it is; `None`: the host lacks it.
    pub info: Option<Arc<PathInfo>>,
    /// When the host said so, in seconds of Unix time.
    pub checked_at: u64,
}

/// A change to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheWrite {
    /// A host, by its key, answered.
    Answer(Arc<str>, CachedAnswer),
    /// A host still has a path at this time, in seconds of Unix time; its info is the same.
    Confirmed(Arc<str>, StorePath, u64),
    /// A host's answer about a path does not hold any more.
    Removed(Arc<str>, StorePath),
}

/// What is looked up.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// Keys of the hosts.
    pub hosts: &'a [Arc<str>],
    /// The paths.
    pub paths: &'a [StorePath],
    /// For how long answers are believed.
    pub lifetimes: Lifetimes,
    /// The time, in seconds of Unix time.
    pub now: u64,
    /// How many paths are read at most: references of those found are read too, up to this number.
    pub most: usize,
}

impl Disk {
    /// Answers of these hosts about these paths and their references: the index of the host in the question,
    /// and its answer. References that `is_known` are not followed. Blocks; finds nothing when there is no disk
    /// tier.
    #[must_use]
    pub fn path_infos(
        &self,
        lookup: &Lookup<'_>,
        is_known: impl Fn(&StorePath) -> bool,
    ) -> Vec<(usize, CachedAnswer)> {
        self.ask(|db| look_up(db, lookup, &is_known))
            .unwrap_or_default()
    }

    /// Writes all of `writes`, in order and at once. Blocks.
    pub fn remember(&self, writes: &[CacheWrite], lifetimes: Lifetimes, now: u64) {
        let written = self.ask(|db| write(db, writes));
        // Separately, so that the writes stay if this fails.
        if written.is_some() {
            self.ask(|db| upkeep::prune(db, lifetimes, now, upkeep::Bounds::default()));
        }
    }
}

type Found = Vec<(usize, CachedAnswer)>;

fn look_up(
    db: &Connection,
    lookup: &Lookup<'_>,
    is_known: &impl Fn(&StorePath) -> bool,
) -> rusqlite::Result<Found> {
    // One snapshot, and one lock for all rows.
    let snapshot = db.unchecked_transaction()?;
    let mut rows = snapshot.prepare(row::SELECT)?;
    let mut ids = Ids::default();
    let mut found = Found::new();
    let mut seen: HashSet<StorePath> = HashSet::new();
    let mut ahead = VecDeque::new();
    for path in lookup.paths {
        if seen.insert(path.clone()) {
            let start = found.len();
            read(&snapshot, &mut rows, &mut ids, lookup, path, &mut found)?;
            ahead.extend(references(&found[start..]));
        }
    }
    let started = Instant::now();
    while let Some(path) = ahead.pop_front() {
        if seen.len() >= lookup.most || started.elapsed() > READAHEAD_TIMEOUT {
            break;
        }
        if !is_known(&path) && seen.insert(path.clone()) {
            let start = found.len();
            read(&snapshot, &mut rows, &mut ids, lookup, &path, &mut found)?;
            ahead.extend(references(&found[start..]));
        }
    }
    Ok(found)
}

/// The references of a path, by the first host that has it.
fn references(found: &[(usize, CachedAnswer)]) -> Vec<StorePath> {
    let info = found.iter().find_map(|(_, answer)| answer.info.as_ref());
    info.map(|info| info.references.clone()).unwrap_or_default()
}

fn read(
    db: &Connection,
    rows: &mut Statement<'_>,
    ids: &mut Ids,
    lookup: &Lookup<'_>,
    path: &StorePath,
    found: &mut Found,
) -> rusqlite::Result<()> {
    for (place, key) in lookup.hosts.iter().enumerate() {
        let Some(id) = ids.find(db, key, path.store_dir())? else {
            continue;
        };
        let row = rows
            .query_row((id, path.base_name()), |row| Ok(Row::read(row)))
            .optional()?;
        let answer = row.flatten().and_then(|row| row.into_answer(path));
        let fresh = answer.filter(|answer| {
            let Lookup { lifetimes, now, .. } = lookup;
            lifetimes.is_fresh(answer.info.is_some(), answer.checked_at, *now)
        });
        found.extend(fresh.map(|answer| (place, answer)));
    }
    Ok(())
}

fn write(db: &Connection, writes: &[CacheWrite]) -> rusqlite::Result<()> {
    let change = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let mut ids = Ids::default();
    let mut written = 0;
    let mut insert = change.prepare(row::INSERT)?;
    let mut delete = change.prepare(row::DELETE)?;
    let mut check = change.prepare(row::CONFIRM)?;
    for one in writes {
        match one {
            CacheWrite::Answer(key, answer) => {
                // An answer that cannot be written must not leave an older one in its place.
                let id = ids.make(&change, key, answer.path.store_dir())?;
                match Row::of(answer) {
                    Some(row) => row.write(&mut insert, id, &answer.path)?,
                    None => delete.execute((id, answer.path.base_name()))?,
                };
                written += 1;
            }
            CacheWrite::Confirmed(key, path, at) => {
                let at = i64::try_from(*at).unwrap_or(i64::MAX);
                if let Some(id) = ids.find(&change, key, path.store_dir())? {
                    check.execute((id, path.base_name(), at))?;
                }
            }
            CacheWrite::Removed(key, path) => {
                if let Some(id) = ids.find(&change, key, path.store_dir())? {
                    delete.execute((id, path.base_name()))?;
                }
            }
        }
    }
    upkeep::count(&change, written)?;
    drop((insert, delete, check));
    change.commit()
}

/// Row ids of hosts, as far as they were looked up.
#[derive(Default)]
struct Ids(HashMap<(Arc<str>, String), Option<i64>>);

impl Ids {
    fn find(
        &mut self,
        db: &Connection,
        key: &Arc<str>,
        dir: &str,
    ) -> rusqlite::Result<Option<i64>> {
        let place = (key.clone(), dir.to_owned());
        if let Some(id) = self.0.get(&place) {
            return Ok(*id);
        }
        let sql = "SELECT id FROM cached_hosts WHERE key = ?1 AND store_dir = ?2";
        let id = db
            .prepare(sql)?
            .query_row((&**key, dir), |row| row.get(0))
            .optional()?;
        self.0.insert(place, id);
        Ok(id)
    }

    fn make(&mut self, db: &Connection, key: &Arc<str>, dir: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.find(db, key, dir)? {
            return Ok(id);
        }
        let sql = "INSERT INTO cached_hosts (key, store_dir) VALUES (?1, ?2) RETURNING id";
        let id = db
            .prepare(sql)?
            .query_row((&**key, dir), |row| row.get(0))?;
        self.0.insert((key.clone(), dir.to_owned()), Some(id));
        Ok(id)
    }
}

#[cfg(test)]
mod tests;
