//! The disk tier, which all processes of a user share: `cache.sqlite` in a private folder.
//!
//! Losing it costs time only. After any failure (a folder that cannot be written, a full disk, a lock that is
//! held for long) work goes on without it, and one debug line says so. A database that is damaged, of another
//! program, or of a later schema is moved aside and created anew.
//!
//! Everything here blocks, for about 0.3 s per question as long as the disk itself answers.
//! Callers that are async use `spawn_blocking`.
//!
//! | `application_id` | `user_version` | tables |
//! | --- | --- | --- |
//! | `0x7373_6873` (`sshs`) | 1 | `host_health` |
//! | | 2 | and `cached_hosts`, `path_infos`, `upkeep`, `host_shell` |

mod health;
mod infos;
mod inspect;
mod shell;

use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, TransactionBehavior};

pub use infos::{CacheWrite, CachedAnswer, Lifetimes, Lookup};
pub use inspect::{Cleared, Contents, HostAnswers, InspectError};

pub use crate::folder::{Environment, FolderError};
use crate::sqlite::{self, Unusable, is_damage, retry_busy_for};

/// Marks a database as ours (`PRAGMA application_id`).
const APPLICATION_ID: i32 = 0x7373_6873;

/// The newest schema that is understood here.
const SCHEMA_VERSION: i32 = 2;

/// How long a question is repeated while other processes lock the database.
const BUSY_RETRY_TIMEOUT: Duration = Duration::from_millis(200);

const DATABASE_FILE: &str = "cache.sqlite";

/// The disk tier. Nothing is opened before the first question.
#[derive(Debug)]
pub struct Disk {
    environment: Environment,
    /// Held while the database is used, by threads that may block.
    database: Mutex<Database>,
}

#[derive(Debug)]
enum Database {
    Unopened,
    Open { db: Connection, path: PathBuf },
    Off,
}

/// Why the disk tier cannot be used; for the log.
#[derive(Debug, thiserror::Error)]
enum DiskError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{}: {source}", .path.display())]
    Sqlite {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("cannot move {} aside: {source}", .path.display())]
    Aside { path: PathBuf, source: io::Error },
}

impl Disk {
    /// The disk tier in the folder that `environment` names.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            database: Mutex::new(Database::Unopened),
        }
    }

    /// Asks the database, or logs why it cannot.
    fn ask<T>(&self, question: impl Fn(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        // A panic in another thread leaves at worst an open transaction, which its drop ended.
        let mut database = self.database.lock();
        if matches!(*database, Database::Unopened) {
            *database = self.open();
        }
        let Database::Open { db, path } = &*database else {
            return None;
        };
        let error = match retry_busy(|| question(db)) {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        log::debug!("the disk cache {}: {error}", path.display());
        if is_damage(&error) {
            // Damage in the middle of the file shows only now.
            let path = path.clone();
            *database = Database::Off;
            *database = match renew(&path, true) {
                Ok(db) => Database::Open { db, path },
                Err(error) => off(&error),
            };
            if let Database::Open { db, .. } = &*database {
                return retry_busy(|| question(db)).ok();
            }
        }
        None
    }

    fn open(&self) -> Database {
        let opened = self.environment.folder().map_err(DiskError::from);
        let opened = opened.and_then(|folder| {
            let path = folder.join(DATABASE_FILE);
            let db = match open(&path) {
                Ok(db) => db,
                Err(Unusable::Other(source)) => return Err(DiskError::Sqlite { path, source }),
                Err(_) => renew(&path, false)?,
            };
            Ok(Database::Open { db, path })
        });
        opened.unwrap_or_else(|error| off(&error))
    }
}

fn off(error: &DiskError) -> Database {
    log::debug!("no disk cache: {error}");
    Database::Off
}

/// Asks again while other processes lock the database.
fn retry_busy<T>(question: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    retry_busy_for(BUSY_RETRY_TIMEOUT, question)
}

/// The time by the wall clock, in seconds of Unix time.
#[must_use]
pub fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Opens the database; creates it if it is missing.
fn open(path: &Path) -> Result<Connection, Unusable> {
    let mut db = sqlite::open(path, APPLICATION_ID, SCHEMA_VERSION, BUSY_RETRY_TIMEOUT)?;
    // A lost write costs time only, so none waits for the disk.
    retry_busy(|| db.pragma_update(None, "synchronous", "NORMAL"))?;
    retry_busy(|| {
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have done it meanwhile.
        let version: i32 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version < 1 {
            change.execute_batch(health::TABLE)?;
        }
        if version < 2 {
            change.execute_batch(infos::TABLES)?;
            change.execute_batch(shell::TABLE)?;
            change.pragma_update(None, "application_id", APPLICATION_ID)?;
            change.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        change.commit()
    })?;
    Ok(db)
}

/// Moves an unusable database aside and creates a new one. With `damaged` it is known to be unusable even if it
/// can be opened, unless another process has replaced it meanwhile.
fn renew(path: &Path, damaged: bool) -> Result<Connection, DiskError> {
    let failed = |source| DiskError::Aside {
        path: path.to_owned(),
        source,
    };
    // One process at a time, so that no other one moves the new database aside.
    let _lock = sqlite::lock(&path.with_extension("lock"), BUSY_RETRY_TIMEOUT).map_err(failed)?;
    let suffix = match open(path) {
        Ok(db) if !damaged || is_sound(&db) => return Ok(db),
        Ok(_) | Err(Unusable::Damaged) => "damaged",
        Err(Unusable::Foreign) => "foreign",
        Err(Unusable::Newer) => "newer",
        Err(Unusable::Other(source)) => {
            let path = path.to_owned();
            return Err(DiskError::Sqlite { path, source });
        }
    };
    log::debug!("{} is {suffix}: moved aside", path.display());
    sqlite::move_aside(path, suffix).map_err(failed)?;
    open(path).map_err(|problem| match problem {
        Unusable::Other(source) => DiskError::Sqlite {
            path: path.to_owned(),
            source,
        },
        problem => failed(io::Error::other(format!("the new one is {problem:?}"))),
    })
}

fn is_sound(db: &Connection) -> bool {
    let check = retry_busy(|| db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)));
    check.is_ok_and(|answer: String| answer == "ok")
}

#[cfg(test)]
mod tests;
