//! Databases of ours that several processes use at the same time: made for this user alone, asked again while others lock
//! them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::folder::is_own_file;
use crate::folder::lock::try_lock;

/// How long SQLite itself waits for a lock. It is not enough: in WAL mode it sometimes does not wait at all
/// (`SQLITE_BUSY` while a log is recovered, `SQLITE_PROTOCOL` under load).
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// How long to wait before a question is repeated.
const BUSY_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Why a database that is there cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// It is damaged.
    Damaged,
    /// It is not ours: of another user, or of another program.
    Foreign,
    /// A later version of this program has made it.
    Newer,
    /// Anything else: a full disk, say.
    Other(rusqlite::Error),
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

/// Opens a database; creates an empty one if it is missing. `application_id` marks ours, `newest_schema` is the newest
/// one that is understood (`PRAGMA user_version`). Questions are repeated for `limit`.
///
/// # Errors
/// When it cannot be opened, or is not such a database.
pub fn open(
    path: &Path,
    application_id: i32,
    newest_schema: i32,
    limit: Duration,
) -> Result<Connection, Unusable> {
    if !claim(path)? {
        return Err(Unusable::Foreign);
    }
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    let number = |db: &Connection, name: &str| {
        retry_busy_for(limit, || {
            db.pragma_query_value(None, name, |row| row.get::<_, i32>(0))
        })
    };
    let application = number(&db, "application_id")?;
    let tables: i64 = retry_busy_for(limit, || {
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
    })?;
    if application != application_id && (application != 0 || tables > 0) {
        return Err(Unusable::Foreign);
    }
    if number(&db, "user_version")? > newest_schema {
        return Err(Unusable::Newer);
    }
    retry_busy_for(limit, || db.pragma_update(None, "journal_mode", "WAL"))?;
    Ok(db)
}

/// Asks again while other processes lock the database, for at most `limit`.
///
/// # Errors
/// Those of the last question.
pub fn retry_busy_for<T>(
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

/// Whether an error says that the database is damaged.
#[must_use]
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
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

/// Gives a database, and the files that SQLite keeps beside it, another name. A later one replaces an earlier one, so that
/// they do not pile up. Returns the new name.
///
/// # Errors
/// When a file cannot be renamed.
pub fn move_aside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    for part in ["", "-wal", "-shm"] {
        match fs::rename(with(path, part), with(path, &format!(".{suffix}{part}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(with(path, &format!(".{suffix}")))
}

/// The file of that name with something added to it.
#[must_use]
pub fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Waits for a lock between processes for at most `limit`; it is held until the file is dropped.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when another process holds it for longer, and those of the system.
pub fn lock(path: &Path, limit: Duration) -> io::Result<File> {
    let started = Instant::now();
    loop {
        match try_lock(path) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && started.elapsed() < limit =>
            {
                std::thread::sleep(BUSY_RETRY_INTERVAL);
            }
            locked => return locked,
        }
    }
}
