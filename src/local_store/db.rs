//! The database: opened without writing, and asked again while writers hold it.
//!
//! Nix keeps its database in WAL mode. Reading it beside its writers takes `db.sqlite-shm`; SQLite
//! makes that file (and an empty `-wal`) where this user may, as every Nix command does, and uses
//! the one that is there where it may not. Where it is not there and cannot be made, the database
//! can only be read as `immutable`, that is without any locks. That is right only as long as
//! nobody writes: so it is done for one question at a time, only while the log is empty, and the
//! answer counts only when the file has not changed meanwhile.

use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::LocalStoreError;

/// How long SQLite itself waits for a lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a question is repeated while the database is locked.
const LOCKED_RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it is repeated while the database can be read neither shared nor as immutable: this
/// long a writer may be just coming or going.
const UNSHARED_RETRY_TIMEOUT: Duration = Duration::from_secs(2);
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(2);
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Characters that stay as they are in the path of a `file:` URI.
const URI_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.');

/// Why a question has no answer: because of the database, or because of what it holds.
pub(super) enum QueryError {
    Sqlite(rusqlite::Error),
    Answer(LocalStoreError),
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<LocalStoreError> for QueryError {
    fn from(error: LocalStoreError) -> Self {
        Self::Answer(error)
    }
}

#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// The connection shared with writers; none before the first question, after an error, and
    /// where the database cannot be shared.
    shared: Mutex<Option<Connection>>,
}

/// What went wrong with one attempt.
enum AttemptError {
    /// To be tried again until this time has passed.
    Retry(Duration, rusqlite::Error),
    /// As [`AttemptError::Retry`], with the error that says why at the end.
    Unshared(LocalStoreError),
    /// Not to be tried again.
    Final(LocalStoreError),
}

impl Database {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            shared: Mutex::new(None),
        }
    }

    /// Asks within one read transaction. `answer` may run several times.
    pub(super) fn ask<T>(
        &self,
        question: &'static str,
        mut answer: impl FnMut(&Connection) -> Result<T, QueryError>,
    ) -> Result<T, LocalStoreError> {
        // A panic in another thread leaves at worst an open transaction, which its drop ended.
        let mut shared = self.shared.lock();
        let started = Instant::now();
        let mut pause = MIN_RETRY_PAUSE;
        loop {
            let error = match self.attempt(&mut shared, question, &mut answer) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let waited = started.elapsed();
            match error {
                AttemptError::Final(error) => return Err(error),
                AttemptError::Unshared(error) if waited >= UNSHARED_RETRY_TIMEOUT => {
                    return Err(error);
                }
                AttemptError::Retry(timeout, source) if waited >= timeout => {
                    return Err(LocalStoreError::Locked {
                        db: self.path.clone(),
                        question,
                        seconds: waited.as_secs(),
                        source,
                    });
                }
                AttemptError::Unshared(_) | AttemptError::Retry(..) => {}
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    }

    fn attempt<T>(
        &self,
        shared: &mut Option<Connection>,
        question: &'static str,
        answer: &mut impl FnMut(&Connection) -> Result<T, QueryError>,
    ) -> Result<T, AttemptError> {
        let error = match self.ask_shared(shared, answer) {
            Ok(value) => return Ok(value),
            Err(QueryError::Answer(error)) => return Err(AttemptError::Final(error)),
            Err(QueryError::Sqlite(error)) => error,
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => Err(AttemptError::Retry(LOCKED_RETRY_TIMEOUT, error)),
            Some(ErrorCode::FileLockingProtocolFailed) => {
                *shared = None;
                Err(AttemptError::Retry(LOCKED_RETRY_TIMEOUT, error))
            }
            // All the READONLY_* that a reader can meet (recovery, shared memory that is not
            // initialised, a folder that cannot be written) and a helper file that cannot be made.
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                *shared = None;
                self.ask_immutable(error, question, answer)
            }
            _ => {
                *shared = None;
                Err(AttemptError::Final(self.error(question, error)))
            }
        }
    }

    fn ask_shared<T>(
        &self,
        shared: &mut Option<Connection>,
        answer: &mut impl FnMut(&Connection) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let connection = match shared {
            Some(connection) => connection,
            None => shared.insert(Connection::open_with_flags(&self.path, flags())?),
        };
        ask_in_transaction(connection, answer)
    }

    fn ask_immutable<T>(
        &self,
        refused: rusqlite::Error,
        question: &'static str,
        answer: &mut impl FnMut(&Connection) -> Result<T, QueryError>,
    ) -> Result<T, AttemptError> {
        let before = DatabaseStamp::take(&self.path).map_err(AttemptError::Final)?;
        if !before.is_settled() {
            return Err(AttemptError::Unshared(LocalStoreError::Unshared {
                db: self.path.clone(),
                wal: before.wal,
                journal: before.journal,
                source: refused,
            }));
        }
        let mut uri = OsString::from("file:");
        uri.push(percent_encode(self.path.as_os_str().as_bytes(), URI_PATH).to_string());
        uri.push("?immutable=1");
        let outcome = Connection::open_with_flags(uri, flags() | OpenFlags::SQLITE_OPEN_URI)
            .map_err(QueryError::from)
            .and_then(|mut connection| ask_in_transaction(&mut connection, answer));
        let after = DatabaseStamp::take(&self.path).map_err(AttemptError::Final)?;
        match outcome {
            // Whatever came out was read while somebody wrote.
            _ if before != after => Err(AttemptError::Retry(LOCKED_RETRY_TIMEOUT, refused)),
            Ok(value) => Ok(value),
            Err(QueryError::Answer(error)) => Err(AttemptError::Final(error)),
            Err(QueryError::Sqlite(error)) => Err(AttemptError::Final(self.error(question, error))),
        }
    }

    fn error(&self, question: &'static str, source: rusqlite::Error) -> LocalStoreError {
        LocalStoreError::Database {
            db: self.path.clone(),
            question,
            source,
        }
    }
}

/// The mutex in [`Database`] is all the locking that a connection needs.
fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn ask_in_transaction<T>(
    connection: &mut Connection,
    answer: &mut impl FnMut(&Connection) -> Result<T, QueryError>,
) -> Result<T, QueryError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    // Nothing was written: ending it by rollback, in its drop, is as good as a commit.
    answer(&transaction)
}

/// Changes when a process writes to the database.
#[derive(Debug, PartialEq, Eq)]
struct DatabaseStamp {
    inode: (u64, u64),
    len: u64,
    modified: (i64, i64),
    wal: u64,
    journal: u64,
}

impl DatabaseStamp {
    fn take(db: &Path) -> Result<Self, LocalStoreError> {
        let len = |suffix| {
            let mut path = db.as_os_str().to_owned();
            path.push(suffix);
            match metadata(path.as_ref()) {
                Err(LocalStoreError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    Ok(0)
                }
                found => found.map(|meta| meta.len()),
            }
        };
        let meta = metadata(db)?;
        Ok(Self {
            inode: (meta.dev(), meta.ino()),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            wal: len("-wal")?,
            journal: len("-journal")?,
        })
    }

    /// Whether the file alone is the whole database.
    fn is_settled(&self) -> bool {
        self.wal == 0 && self.journal == 0
    }
}

fn metadata(path: &Path) -> Result<Metadata, LocalStoreError> {
    std::fs::metadata(path).map_err(|source| LocalStoreError::Io {
        action: "look at",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn refused() -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(14), None)
    }

    fn count(db: &Connection) -> Result<i64, QueryError> {
        Ok(db.query_row("select count(*) from T", [], |row| row.get(0))?)
    }

    /// A database with one row, nobody using it.
    fn database(folder: &Path) -> Database {
        let path = folder.join("db.sqlite");
        let writer = Connection::open(&path).unwrap();
        writer
            .execute_batch(
                "pragma journal_mode = wal; create table T (x); insert into T values (1)",
            )
            .unwrap();
        Database::new(path)
    }

    #[test]
    fn any_folder_can_be_in_the_uri() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(OsStr::from_bytes(b"a%41 ?mode=rwc#&+\xff"));
        std::fs::create_dir(&odd).unwrap();
        let db = database(&odd);
        assert!(matches!(
            db.ask_immutable(refused(), "count", &mut count),
            Ok(1)
        ));
        assert_eq!(
            std::fs::read_dir(&odd).unwrap().count(),
            1,
            "it made no file"
        );
        assert!(matches!(db.ask("count", count), Ok(1)));
    }

    #[test]
    fn what_was_read_while_somebody_wrote_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(dir.path());
        let writer = Connection::open(&db.path).unwrap();
        let mut first = true;
        let mut answer = |reader: &Connection| {
            if std::mem::take(&mut first) {
                writer.execute("insert into T values (2)", []).unwrap();
                writer
                    .pragma_update(None, "wal_checkpoint", "truncate")
                    .ok();
            }
            count(reader)
        };
        let error = db.ask_immutable(refused(), "count", &mut answer);
        assert!(matches!(error, Err(AttemptError::Retry(..))));
    }

    #[test]
    fn a_log_or_journal_forbids_reading_as_immutable() {
        for suffix in ["-wal", "-journal"] {
            let dir = tempfile::tempdir().unwrap();
            let db = database(dir.path());
            std::fs::write(dir.path().join(format!("db.sqlite{suffix}")), "x").unwrap();
            let error = db.ask_immutable(refused(), "count", &mut count);
            let Err(AttemptError::Unshared(error)) = error else {
                panic!("{suffix} was overlooked");
            };
            assert!(error.to_string().contains("1 bytes"), "{error}");
        }
    }

    #[test]
    fn passing_faults_are_repeated_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(dir.path());
        for (code, tries) in [(5, 3), (261, 3), (517, 3), (15, 3), (11, 1)] {
            let mut left = 3;
            let answer = |reader: &Connection| {
                left -= 1;
                if left == 0 {
                    return count(reader);
                }
                let error = rusqlite::ffi::Error::new(code);
                Err(rusqlite::Error::SqliteFailure(error, None).into())
            };
            let outcome = db.ask("count", answer);
            assert_eq!(outcome.is_ok(), tries == 3, "{code}");
            assert_eq!(3 - left, tries, "{code}");
        }
    }
}
