//! The tier that all processes of a user share: `cache.sqlite` in a private folder.
//!
//! Losing it costs time only. Whatever fails (a folder that cannot be written, a full disk, a
//! lock that is held for long) means working without, and one debug line says so. A database that
//! is damaged, somebody else's, or of a later schema is moved aside and made anew.
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
mod look;
mod shell;

use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

pub use folder::{FolderError, OVERRIDE, Surroundings};
pub use infos::{Lifetimes, Lookup, News, Said};
pub use look::{Cleared, Contents, HostAnswers, LookError};

use crate::folder::is_own_file;
use crate::folder::lock::try_lock;

/// Marks a database as ours (`PRAGMA application_id`).
const APPLICATION: i32 = 0x7373_6873;

/// The newest schema that is understood here.
const SCHEMA: i32 = 2;

/// How long a question is repeated while others are in the way.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long SQLite itself waits for a lock: in part, since in WAL mode it sometimes does not wait
/// at all (`SQLITE_BUSY` while a log is recovered, `SQLITE_PROTOCOL` under load).
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// How long to wait before a question is repeated.
const PAUSE: Duration = Duration::from_millis(5);

const FILE: &str = "cache.sqlite";

/// The disk tier. Nothing is opened before the first question.
#[derive(Debug)]
pub struct Disk {
    surroundings: Surroundings,
    /// Held while the database is asked, by threads that may block.
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Unopened,
    Open { db: Connection, path: PathBuf },
    Off,
}

/// Why the disk tier is of no use. For the log: nobody can do more about it than do without.
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

/// What is wrong with a database that is there.
#[derive(Debug)]
enum Unusable {
    Damaged,
    Foreign,
    Newer,
    Other(rusqlite::Error),
}

impl Disk {
    /// The disk tier in the place that `surroundings` say.
    #[must_use]
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            state: Mutex::new(State::Unopened),
        }
    }

    /// Asks the database, or tells the log why it cannot.
    fn ask<T>(&self, question: impl Fn(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        // A panic in another thread leaves at worst an open transaction, which its drop ended.
        let mut state = self.state.lock();
        if matches!(*state, State::Unopened) {
            *state = self.open();
        }
        let State::Open { db, path } = &*state else {
            return None;
        };
        let error = match patiently(|| question(db)) {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        log::debug!("the disk cache {}: {error}", path.display());
        if is_damage(&error) {
            // What is damaged in the middle shows only now.
            let path = path.clone();
            *state = State::Off;
            *state = match renew(&path, true) {
                Ok(db) => State::Open { db, path },
                Err(error) => off(&error),
            };
            if let State::Open { db, .. } = &*state {
                return patiently(|| question(db)).ok();
            }
        }
        None
    }

    fn open(&self) -> State {
        let opened = self.surroundings.folder().map_err(DiskError::from);
        let opened = opened.and_then(|folder| {
            let path = folder.join(FILE);
            let db = match open(&path) {
                Ok(db) => db,
                Err(Unusable::Other(source)) => return Err(DiskError::Sqlite { path, source }),
                Err(_) => renew(&path, false)?,
            };
            Ok(State::Open { db, path })
        });
        opened.unwrap_or_else(|error| off(&error))
    }
}

fn off(error: &DiskError) -> State {
    log::debug!("no disk cache: {error}");
    State::Off
}

/// Asks again while others are in the way.
fn patiently<T>(mut question: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let started = Instant::now();
    loop {
        match question() {
            Err(error) if is_passing(&error) && started.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
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

/// Opens the database, makes it if it is not there.
fn open(path: &Path) -> Result<Connection, Unusable> {
    if !claim(path)? {
        return Err(Unusable::Foreign);
    }
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    let number = |db: &Connection, name: &str| {
        patiently(|| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0)))
    };
    let application = number(&db, "application_id")?;
    let tables: i64 =
        patiently(|| db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)))?;
    if application != APPLICATION && (application != 0 || tables > 0) {
        return Err(Unusable::Foreign);
    }
    if number(&db, "user_version")? > SCHEMA {
        return Err(Unusable::Newer);
    }
    // A lost write costs time only, so none waits for the disk.
    patiently(|| db.pragma_update(None, "journal_mode", "WAL"))?;
    patiently(|| db.pragma_update(None, "synchronous", "NORMAL"))?;
    patiently(|| {
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have done it just now.
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

/// Makes the file if it is missing, for us alone: SQLite gives what it puts beside it the same mode.
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
            // What has gone meanwhile was there before.
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

/// Moves a database that is of no use aside and makes a new one. With `damaged` it is known to be
/// of no use even if it can be opened, unless another process has replaced it meanwhile.
fn renew(path: &Path, damaged: bool) -> Result<Connection, DiskError> {
    let failed = |source| DiskError::Aside {
        path: path.to_owned(),
        source,
    };
    // One process at a time, so that nobody moves the new one aside.
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
    let check = patiently(|| db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)));
    check.is_ok_and(|answer: String| answer == "ok")
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// A lock between processes; held until the file is dropped.
fn lock(path: &Path) -> io::Result<File> {
    let started = Instant::now();
    loop {
        match try_lock(path) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && started.elapsed() < PATIENCE =>
            {
                std::thread::sleep(PAUSE);
            }
            locked => return locked,
        }
    }
}

#[cfg(test)]
mod tests;
