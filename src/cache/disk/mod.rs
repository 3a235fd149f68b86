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

mod folder;
mod health;
mod infos;
mod inspect;
mod shell;

use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

pub use folder::{Environment, FolderError, OVERRIDE};
pub use infos::{CacheWrite, CachedAnswer, Lifetimes, Lookup};
pub use inspect::{Cleared, Contents, HostAnswers, InspectError};

use crate::folder::is_own_file;
use crate::folder::lock::try_lock;

/// Marks a database as ours (`PRAGMA application_id`).
const APPLICATION: i32 = 0x7373_6873;

/// The newest schema that is understood here.
const SCHEMA: i32 = 2;

/// How long a question is repeated while other processes lock the database.
const BUSY_RETRY_TIMEOUT: Duration = Duration::from_millis(200);

/// How long SQLite itself waits for a lock. It is not enough: in WAL mode it sometimes does not wait at all
/// (`SQLITE_BUSY` while a log is recovered, `SQLITE_PROTOCOL` under load).
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// How long to wait before a question is repeated.
const BUSY_RETRY_INTERVAL: Duration = Duration::from_millis(5);

const FILE: &str = "cache.sqlite";

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

/// Why a database that is there cannot be used.
#[derive(Debug)]
enum Unusable {
    Damaged,
    Foreign,
    Newer,
    Other(rusqlite::Error),
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
            let path = folder.join(FILE);
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

/// The same for at most `limit`.
fn retry_busy_for<T>(
    limit: Duration,
    mut question: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let started = Instant::now();
    loop {
        match question() {
            Err(error) if is_passing(&error) && started.elapsed() < limit => {
                std::thread::sleep(BUSY_RETRY_INTERVAL);
            }
            result => return result,
        }
    }
}

fn is_passing(error: &rusqlite::Error) -> bool {
    let locking = error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == ffi::SQLITE_PROTOCOL);
    locking
        || matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        if is_damage(&error) {
            Self::Damaged
        } else {
            Self::Other(error)
        }
    }
}

/// The time by the wall clock, in seconds of Unix time.
#[must_use]
pub fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Opens the database; creates it if it is missing.
fn open(path: &Path) -> Result<Connection, Unusable> {
    if !claim(path)? {
        return Err(Unusable::Foreign);
    }
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    let number = |db: &Connection, name: &str| {
        retry_busy(|| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0)))
    };
    let application = number(&db, "application_id")?;
    let tables: i64 =
        retry_busy(|| db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)))?;
    if application != APPLICATION && (application != 0 || tables > 0) {
        return Err(Unusable::Foreign);
    }
    if number(&db, "user_version")? > SCHEMA {
        return Err(Unusable::Newer);
    }
    // A lost write costs time only, so none waits for the disk.
    retry_busy(|| db.pragma_update(None, "journal_mode", "WAL"))?;
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
            change.pragma_update(None, "application_id", APPLICATION)?;
            change.pragma_update(None, "user_version", SCHEMA)?;
        }
        change.commit()
    })?;
    Ok(db)
}

/// Creates the file if it is missing, readable for us alone: SQLite gives the files beside it the same mode.
/// `false` when something else than a file of ours has its name.
fn claim(path: &Path) -> rusqlite::Result<bool> {
    let made = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(path);
            let uid = rustix::process::geteuid().as_raw();
            // A file that is gone by now existed a moment ago, and is not ours to claim.
            Ok(meta.is_ok_and(|meta| is_own_file(&meta, uid)))
        }
        Err(error) => {
            let code = ffi::Error::new(ffi::SQLITE_CANTOPEN);
            Err(rusqlite::Error::SqliteFailure(
                code,
                Some(error.to_string()),
            ))
        }
    }
}

/// Moves an unusable database aside and creates a new one. With `damaged` it is known to be unusable even if it
/// can be opened, unless another process has replaced it meanwhile.
fn renew(path: &Path, damaged: bool) -> Result<Connection, DiskError> {
    let failed = |source| DiskError::Aside {
        path: path.to_owned(),
        source,
    };
    // One process at a time, so that no other one moves the new database aside.
    let _lock = lock(&path.with_extension("lock")).map_err(failed)?;
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
    for part in ["", "-wal", "-shm"] {
        // A later one replaces an earlier one, so that they do not pile up.
        match fs::rename(with(path, part), with(path, &format!(".{suffix}{part}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
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

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// A lock between processes, held until the file is dropped.
fn lock(path: &Path) -> io::Result<File> {
    let started = Instant::now();
    loop {
        match try_lock(path) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    && started.elapsed() < BUSY_RETRY_TIMEOUT =>
            {
                std::thread::sleep(BUSY_RETRY_INTERVAL);
            }
            locked => return locked,
        }
    }
}

#[cfg(test)]
mod tests;
