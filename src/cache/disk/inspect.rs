//! Inspecting, checking and clearing the disk tier, for the user's commands. Other processes may use it
//! meanwhile. Everything here blocks.
//!
//! Other than for questions, an error here says why there is no answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::shell::EXTENSION;
use super::{DATABASE_FILE, Disk, FolderError, health, open, retry_busy};
use crate::hint::without_hint;
use crate::model::HealthRecord;
use crate::sqlite::{Unusable, retry_busy_for, with};

/// How long a change is repeated while others write: a user can wait longer than Nix.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Rows that are deleted at a time, so that others can write in between.
const ROWS_PER_DELETE: i64 = 20_000;

/// Why the disk tier cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no folder for it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The file is not what it should be.
    #[error("{}: {what}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// SQLite cannot use it.
    #[error("{}: {source}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

// `doctor` has a fix for each kind; other commands do without the cache.
without_hint!(InspectError);

/// All that it holds. Times of answers are seconds of Unix time.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes, with its write-ahead log; `None` when it is not there yet.
    pub size: Option<u64>,
    /// The number of its schema.
    pub schema: i32,
    /// Answers, for each host and store directory.
    pub answers: Vec<HostAnswers>,
    /// Keys of hosts that failed and were not well since, and how; without failures, a host was only slow.
    pub failures: Vec<(String, HealthRecord)>,
    /// Keys of hosts, and whether their accounts have a shell.
    pub shells: Vec<(String, bool)>,
    /// Keys of hosts whose program sends parts of NARs without a shell.
    pub extensions: Vec<String>,
}

/// Counts of one host's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAnswers {
    /// The host's key; its first line is how messages name it.
    pub key: String,
    /// The store directory that the paths are in.
    pub store_dir: String,
    /// Paths that it has.
    pub has: u64,
    /// Paths that it lacks.
    pub lacks: u64,
    /// When the oldest of them was given.
    pub oldest: u64,
}

/// What was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Answers about paths.
    pub answers: u64,
    /// Other notes: failures, shells.
    pub notes: u64,
}

impl Disk {
    /// Where the file is or would be. Its folder is created if it is missing.
    ///
    /// # Errors
    /// When there is no folder for it.
    pub fn path(&self) -> Result<PathBuf, InspectError> {
        Ok(self.environment.folder()?.join(DATABASE_FILE))
    }

    /// All that it holds. A missing file is not created.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn contents(&self) -> Result<Contents, InspectError> {
        let path = self.path()?;
        let Some(size) = size(&path) else {
            return Ok(Contents {
                path,
                ..Contents::default()
            });
        };
        let db = connect(&path)?;
        let failed = |source| InspectError::Sqlite {
            path: path.clone(),
            source,
        };
        let contents = retry_busy(|| read(&db)).map_err(failed)?;
        Ok(Contents {
            path: path.clone(),
            size: Some(size),
            ..contents
        })
    }

    /// Forgets all about the hosts whose keys `is_meant` picks.
    ///
    /// # Errors
    /// When it cannot be read or changed.
    pub fn clear(&self, is_meant: impl Fn(&str) -> bool) -> Result<Cleared, InspectError> {
        let path = self.path()?;
        if size(&path).is_none() {
            return Ok(Cleared::default());
        }
        let db = connect(&path)?;
        clear(&db, is_meant).map_err(|source| InspectError::Sqlite { path, source })
    }

    /// Checks whether it can be read and written.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<PathBuf, InspectError> {
        let path = self.path()?;
        let db = connect(&path)?;
        let written = retry_busy_for(CHANGE_TIMEOUT, || {
            db.execute_batch("BEGIN IMMEDIATE; UPDATE upkeep SET written = written; ROLLBACK")
        });
        if written.is_err() && !db.is_autocommit() {
            let _ = db.execute_batch("ROLLBACK");
        }
        match written {
            Ok(()) => Ok(path),
            Err(source) => Err(InspectError::Sqlite { path, source }),
        }
    }
}

fn size(path: &Path) -> Option<u64> {
    let length = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.len());
    let log = length(&with(path, "-wal")).unwrap_or(0);
    Some(length(path)? + log)
}

/// Opens it without repairing anything.
fn connect(path: &Path) -> Result<Connection, InspectError> {
    let what = match open(path) {
        Ok(db) => return Ok(db),
        Err(Unusable::Damaged) => "the file is damaged",
        Err(Unusable::Foreign) => "the file is somebody else's database",
        Err(Unusable::Newer) => "the file is of a later version of this program",
        Err(Unusable::Other(source)) => {
            let path = path.to_owned();
            return Err(InspectError::Sqlite { path, source });
        }
    };
    let path = path.to_owned();
    Err(InspectError::Unusable { path, what })
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn read(db: &Connection) -> rusqlite::Result<Contents> {
    let answers = "SELECT h.key, h.store_dir, count(p.nar_size), count(*), min(p.checked_at)
        FROM cached_hosts h JOIN path_infos p ON p.host = h.id GROUP BY h.id ORDER BY h.id";
    let answers = rows(db, answers, |row| {
        let has = number(row.get(2)?);
        Ok(HostAnswers {
            key: row.get(0)?,
            store_dir: row.get(1)?,
            has,
            lacks: number(row.get(3)?).saturating_sub(has),
            oldest: number(row.get(4)?),
        })
    })?;
    let failures = "SELECT host, failures, last_failure, rest_until FROM host_health
        ORDER BY last_failure DESC";
    let failures = rows(db, failures, |row| Ok((row.get(0)?, health::read(row, 1)?)))?;
    let known = "SELECT host, has_shell FROM host_shell WHERE has_shell IN (0, 1)";
    let shells = rows(db, known, |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)? == 1))
    })?;
    let known = format!("SELECT host FROM host_shell WHERE has_shell = {EXTENSION}");
    let extensions = rows(db, &known, |row| row.get(0))?;
    Ok(Contents {
        schema: db.pragma_query_value(None, "user_version", |row| row.get(0))?,
        answers,
        failures,
        shells,
        extensions,
        ..Contents::default()
    })
}

fn rows<T>(
    db: &Connection,
    sql: &str,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map((), read)?.collect()
}

fn clear(db: &Connection, is_meant: impl Fn(&str) -> bool) -> rusqlite::Result<Cleared> {
    let mut cleared = Cleared::default();
    let hosts = retry_busy(|| {
        rows(db, "SELECT id, key FROM cached_hosts", |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })
    })?;
    for (id, _) in hosts.into_iter().filter(|(_, key)| is_meant(key)) {
        let some = "DELETE FROM path_infos WHERE host = ?1 AND path IN
            (SELECT path FROM path_infos WHERE host = ?1 LIMIT ?2)";
        loop {
            let removed = retry_busy_for(CHANGE_TIMEOUT, || {
                db.execute(some, params![id, ROWS_PER_DELETE])
            })?;
            cleared.answers += removed as u64;
            if removed == 0 {
                break;
            }
        }
        // Not the row of the host: another process may be about to write answers with its id.
    }
    for table in ["host_health", "host_shell"] {
        let list = format!("SELECT host FROM {table}");
        let keys = retry_busy(|| rows(db, &list, |row| row.get::<_, String>(0)))?;
        let remove = format!("DELETE FROM {table} WHERE host = ?1");
        for key in keys.iter().filter(|key| is_meant(key)) {
            cleared.notes += retry_busy_for(CHANGE_TIMEOUT, || db.execute(&remove, [key]))? as u64;
        }
    }
    let is_empty = "SELECT NOT EXISTS (SELECT 1 FROM path_infos)";
    if retry_busy(|| db.query_row(is_empty, (), |row| row.get(0))).unwrap_or(false) {
        // Shrinks the file, if no other process locks it. With many rows left that would take long, and hold
        // up others.
        let _ = db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
    }
    Ok(cleared)
}
