//! Store paths that are to be sent to hosts in the background: a queue on disk, for all processes of a user.
//!
//! ```text
//! STATE/push-queue.sqlite        who is to get what, when it is tried next and why it failed
//! STATE/push-queue.lock          flock(2)ed by the one process that sends
//! STATE/push-roots/STORE/NAME    symlinks to the paths; each is an indirect root of the collector where this user may make one
//! ```
//!
//! STATE is the folder of [`Purpose::State`](crate::folder::Purpose). What is added is on the disk when [`PushQueue::add`]
//! returns, and stays until it was sent or is given up: no process that ends, in whatever way, loses it.
//!
//! Everything here blocks, for at most [`BUSY_LIMIT`] beyond what the disk takes.
//!
//! | `application_id` | `user_version` | tables |
//! | --- | --- | --- |
//! | `0x7373_6871` (`sshq`) | 1 | `queue`, `given_up` |

mod database;
mod error;
mod roots;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::folder::Environment;
use crate::folder::lock::try_lock;
use crate::model::StorePath;
use crate::sqlite::retry_busy_for;

pub use error::QueueError;
use roots::Roots;

/// How long a change is repeated while other processes hold the database.
pub const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Most entries of the queue.
pub const ENTRIES_MAX: u64 = 1_000_000;

/// How many of those that were given up are remembered, and for how long.
const GIVEN_UP_MAX: u32 = 1000;
const GIVEN_UP_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Longest reason that is kept, in characters.
const REASON_MAX: usize = 1000;

const DATABASE_FILE: &str = "push-queue.sqlite";
const LOCK_FILE: &str = "push-queue.lock";

/// A path that a host is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number; those that were added later have larger ones.
    pub id: i64,
    /// The root of the store here that it is in.
    pub store: PathBuf,
    /// The path.
    pub path: StorePath,
    /// The host, as in a configuration.
    pub host: String,
    /// When it was added.
    pub queued_at: SystemTime,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried next.
    pub due_at: SystemTime,
    /// Why it failed last.
    pub reason: Option<String>,
}

/// A path that a host was to get, and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The path.
    pub path: String,
    /// The host.
    pub host: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

/// The queue of this user.
#[derive(Debug)]
pub struct PushQueue {
    /// Held for a question, by threads that may block.
    db: Mutex<Connection>,
    folder: PathBuf,
    roots: Roots,
}

/// Held by the process that sends.
#[derive(Debug)]
pub struct SenderLock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl PushQueue {
    /// Opens the queue in the folder that `environment` names; creates it if there is none.
    ///
    /// # Errors
    /// When there is no such folder, or the file in it cannot be used.
    pub fn open(environment: &Environment) -> Result<Self, QueueError> {
        let folder = environment.folder()?;
        let db = database::open(&folder.join(DATABASE_FILE))?;
        Ok(Self {
            db: Mutex::new(db),
            roots: Roots::new(&folder),
            folder,
        })
    }

    /// Opens the queue if there is one.
    ///
    /// # Errors
    /// As [`PushQueue::open`].
    pub fn open_existing(environment: &Environment) -> Result<Option<Self>, QueueError> {
        let Some(folder) = environment.existing_folder()? else {
            return Ok(None);
        };
        match folder.join(DATABASE_FILE).try_exists() {
            Ok(false) => Ok(None),
            _ => Self::open(environment).map(Some),
        }
    }

    /// Adds these paths of the store at `store`, which are valid there, for each of these hosts, and makes roots of the
    /// collector for them where that is allowed. What is there already is due at once. They are on the disk when it returns.
    ///
    /// # Errors
    /// When the file cannot be written, and when the queue is full ([`ENTRIES_MAX`]); then nothing is added.
    pub fn add(
        &self,
        store: &Path,
        paths: &[StorePath],
        hosts: &[String],
    ) -> Result<(), QueueError> {
        self.change(|db| {
            let more = (paths.len() * hosts.len()) as u64;
            if database::count(db)? + more > ENTRIES_MAX {
                return Ok(Err(QueueError::Full(ENTRIES_MAX)));
            }
            database::add(db, store, paths, hosts, now())?;
            // While others wait for this change: none of them removes the root.
            paths.iter().for_each(|path| self.roots.make(store, path));
            Ok(Ok(()))
        })?
    }

    /// All entries, in the order in which they were added.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, QueueError> {
        self.ask(database::entries)
    }

    /// At most `most` entries of a host that are due by now, in the order in which they were added.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn due_for(&self, host: &str, most: usize) -> Result<Vec<Entry>, QueueError> {
        self.ask(|db| database::due_for(db, host, now(), most))
    }

    /// The hosts that are to get something, and when the first of it is due.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn hosts(&self) -> Result<Vec<(String, SystemTime)>, QueueError> {
        self.ask(database::hosts)
    }

    /// How many there are, and when the first one is due.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn outlook(&self) -> Result<(u64, Option<SystemTime>), QueueError> {
        self.ask(database::outlook)
    }

    /// Those that were given up and that nobody was told of, the oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn given_up(&self) -> Result<Vec<GivenUp>, QueueError> {
        self.ask(database::given_up)
    }

    /// The same, for who tells them: they are forgotten.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn take_given_up(&self) -> Result<Vec<GivenUp>, QueueError> {
        self.change(|db| {
            let all = database::given_up(db)?;
            database::forget(db, now() + Duration::from_secs(1))?;
            Ok(all)
        })
    }

    /// These were sent: they leave the queue.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remove_sent(&self, sent: &[Entry]) -> Result<(), QueueError> {
        self.leave(sent, None)
    }

    /// These will not be sent: they leave the queue, and why is remembered.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn give_up(&self, entries: &[Entry], reason: &str) -> Result<(), QueueError> {
        self.leave(entries, Some(reason))
    }

    fn leave(&self, entries: &[Entry], reason: Option<&str>) -> Result<(), QueueError> {
        self.change(|db| {
            for entry in entries {
                if let Some(reason) = reason {
                    database::remember(db, entry, &cut(reason), now())?;
                }
                if database::remove(db, entry)? {
                    self.roots.remove(&entry.store, &entry.path);
                }
            }
            Ok(())
        })
    }

    /// These could not be sent, and are due again after `pause`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put_off(
        &self,
        entries: &[Entry],
        reason: &str,
        pause: Duration,
    ) -> Result<(), QueueError> {
        self.change(|db| database::put_off(db, entries, &cut(reason), now() + pause))
    }

    /// All are due at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn make_due(&self) -> Result<(), QueueError> {
        self.change(|db| database::make_due(db, now()))
    }

    /// Takes the lock of the process that sends, without waiting; `None` when another one has it.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn try_send(&self) -> Result<Option<SenderLock>, QueueError> {
        let path = self.folder.join(LOCK_FILE);
        match try_lock(&path) {
            Ok(lock) => Ok(Some(SenderLock(lock))),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(QueueError::Lock { path, source }),
        }
    }

    /// Removes roots that processes which ended have left behind.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sweep(&self) -> Result<(), QueueError> {
        self.change(|db| {
            let wanted = database::paths(db)?;
            self.roots.sweep(&wanted);
            database::forget(db, now() - GIVEN_UP_AGE)
        })
    }

    fn ask<T>(
        &self,
        question: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        let db = self.db.lock();
        retry_busy_for(BUSY_LIMIT, || question(&db)).map_err(|source| self.failed(source))
    }

    /// One transaction, which other processes wait for.
    fn change<T>(
        &self,
        mut change: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        let mut db = self.db.lock();
        retry_busy_for(BUSY_LIMIT, || database::change(&mut db, &mut change))
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> QueueError {
        QueueError::Sqlite {
            path: self.folder.join(DATABASE_FILE),
            source,
        }
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn cut(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests;
