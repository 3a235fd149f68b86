//! What can go wrong with a local store.

use std::io;
use std::path::PathBuf;

use crate::hint::Hint;
use crate::model::StorePath;

/// Why a local store could not be opened, asked or dumped from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalStoreError {
    /// A file system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "open", "read", …
        action: &'static str,
        /// The file, where it really is.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store has a schema that this program does not know.
    #[error("unknown store schema in {}: expected {expected}, got {got:?}", path.display())]
    Schema {
        /// The file with the schema version.
        path: PathBuf,
        /// The version that is understood.
        expected: u32,
        /// What the file holds, cut to a printable length.
        got: String,
    },
    /// A question to the database failed.
    #[error("cannot {question} in the store database {}", db.display())]
    Database {
        /// The database.
        db: PathBuf,
        /// What was asked.
        question: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Others held the database for longer than this program waits.
    #[error(
        "cannot {question}: the store database {} stayed locked for {seconds} s",
        db.display()
    )]
    Locked {
        /// The database.
        db: PathBuf,
        /// What was asked.
        question: &'static str,
        /// How long was waited.
        seconds: u64,
        /// What SQLite said last.
        #[source]
        source: rusqlite::Error,
    },
    /// Sharing the database with its writers takes files that cannot be made or read here, and
    /// reading it as immutable would overlook what the log holds.
    #[error(
        "cannot read the store database {}: opening it read-only beside its writers failed, and \
         it cannot be read as immutable because its write-ahead log holds {wal} bytes and its \
         rollback journal {journal} bytes (expected 0 of both)",
        db.display()
    )]
    Unshared {
        /// The database.
        db: PathBuf,
        /// Length of `db.sqlite-wal`.
        wal: u64,
        /// Length of `db.sqlite-journal`.
        journal: u64,
        /// What SQLite said to the first attempt.
        #[source]
        source: rusqlite::Error,
    },
    /// The database holds something about a path that makes no sense.
    #[error("bad {field} of {path} in the store database: expected {expected}, got {got:?}")]
    Row {
        /// The path that the row is about.
        path: String,
        /// The column.
        field: &'static str,
        /// What Nix writes there.
        expected: &'static str,
        /// What was there, cut to a printable length.
        got: String,
    },
    /// The path is not registered as valid.
    #[error("path {path} is not valid in the store at {}", root.display())]
    NotValid {
        /// The path.
        path: StorePath,
        /// The root of the store that was asked.
        root: PathBuf,
    },
    /// A kind of object, name, target or nesting that no NAR can hold.
    #[error("cannot dump {}: expected {expected}, got {got}", path.display())]
    Limit {
        /// The object.
        path: PathBuf,
        /// What is allowed.
        expected: &'static str,
        /// What was there.
        got: String,
    },
    /// A file became shorter while it was read.
    #[error("{} shrank while it was read: expected {expected} bytes, got {got}", path.display())]
    Shrank {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened.
        expected: u64,
        /// How many bytes could be read.
        got: u64,
    },
    /// The files of a path are not what was registered.
    #[error("dump of {path} has the wrong size: expected {expected} bytes, got {got}")]
    Size {
        /// The path.
        path: StorePath,
        /// The size of its NAR in the database.
        expected: u64,
        /// The size of the NAR of what is there.
        got: u64,
    },
}

impl Hint for LocalStoreError {
    fn hint(&self) -> Option<String> {
        Some("--store takes the folder that holds nix/store, / by default".to_owned())
    }
}
