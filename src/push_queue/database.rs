//! The tables, and what is asked of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{BUSY_LIMIT, Entry, GIVEN_UP_MAX, GivenUp, QueueError};
use crate::model::StorePath;
use crate::sqlite::{self, Unusable, move_aside, retry_busy_for};

/// Marks a database as ours (`PRAGMA application_id`).
const APPLICATION_ID: i32 = 0x7373_6871;

/// The newest schema that is understood here.
const SCHEMA_VERSION: i32 = 1;

/// Times are milliseconds of Unix time. AUTOINCREMENT: a number is never used again.
const TABLES: &str = "
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    store BLOB NOT NULL,
    path TEXT NOT NULL,
    host TEXT NOT NULL,
    queued_at INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER NOT NULL,
    reason TEXT,
    UNIQUE (path, store, host)
) STRICT;
CREATE INDEX queue_of_host ON queue (host, due_at);
CREATE TABLE given_up (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL,
    host TEXT NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
";

/// Opens the queue; creates it if it is missing. One that is damaged is moved aside, with a warning.
pub(super) fn open(path: &Path) -> Result<Connection, QueueError> {
    match open_or_create(path) {
        Err(Unusable::Damaged) => renew(path)?,
        opened => opened,
    }
    .map_err(|unusable| {
        let path = path.to_owned();
        let what = match unusable {
            Unusable::Other(source) => return QueueError::Sqlite { path, source },
            Unusable::Damaged => "is damaged",
            Unusable::Foreign => "is not one of this program and user",
            Unusable::Newer => "was made by a later version of this program",
        };
        QueueError::Unusable { path, what }
    })
}

/// Creates a new one in the place of a damaged one.
fn renew(path: &Path) -> Result<Result<Connection, Unusable>, QueueError> {
    let failed = |source| QueueError::Aside {
        path: path.to_owned(),
        source,
    };
    // One process at a time, so that no other one moves the new database aside.
    let _lock = sqlite::lock(&path.with_extension("repair"), BUSY_LIMIT).map_err(failed)?;
    let opened = open_or_create(path);
    if !matches!(opened, Err(Unusable::Damaged)) {
        return Ok(opened);
    }
    let aside = move_aside(path, "damaged").map_err(failed)?;
    log::warn!(
        "the queue of paths to push was damaged, and is {} now: what was in it is not sent",
        aside.display()
    );
    Ok(open_or_create(path))
}

fn open_or_create(path: &Path) -> Result<Connection, Unusable> {
    let mut db = sqlite::open(path, APPLICATION_ID, SCHEMA_VERSION, BUSY_LIMIT)?;
    // What was added is on the disk.
    db.pragma_update(None, "synchronous", "FULL")?;
    let version = retry_busy_for(BUSY_LIMIT, || version(&db))?;
    if version < SCHEMA_VERSION {
        retry_busy_for(BUSY_LIMIT, || {
            change(&mut db, &mut |db| {
                // Another process may have done it meanwhile.
                if self::version(db)? < SCHEMA_VERSION {
                    db.execute_batch(TABLES)?;
                    db.pragma_update(None, "application_id", APPLICATION_ID)?;
                    db.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                }
                Ok(())
            })
        })?;
    }
    Ok(db)
}

fn version(db: &Connection) -> rusqlite::Result<i32> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// One transaction, undone if the change fails.
pub(super) fn change<T>(
    db: &mut Connection,
    change: &mut impl FnMut(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let changed = change(&transaction)?;
    transaction.commit()?;
    Ok(changed)
}

/// How many entries there are.
pub(super) fn count(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT count(*) FROM queue", [], |row| number(row, 0))
}

pub(super) fn add(
    db: &Connection,
    store: &Path,
    paths: &[StorePath],
    hosts: &[String],
    now: SystemTime,
) -> rusqlite::Result<()> {
    let mut insert = db.prepare(
        "INSERT INTO queue (store, path, host, queued_at, due_at) VALUES (?1, ?2, ?3, ?4, ?4)
         ON CONFLICT (path, store, host) DO UPDATE SET due_at = min(due_at, excluded.due_at)",
    )?;
    for path in paths {
        for host in hosts {
            insert.execute(params![
                store.as_os_str().as_bytes(),
                path.as_str(),
                host,
                millis(now)
            ])?;
        }
    }
    Ok(())
}

pub(super) fn entries(db: &Connection) -> rusqlite::Result<Vec<Entry>> {
    select(db, "ORDER BY id", params![])
}

pub(super) fn due_for(
    db: &Connection,
    host: &str,
    now: SystemTime,
    most: usize,
) -> rusqlite::Result<Vec<Entry>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let which = "WHERE host = ?1 AND due_at <= ?2 ORDER BY id LIMIT ?3";
    select(db, which, params![host, millis(now), most])
}

pub(super) fn hosts(db: &Connection) -> rusqlite::Result<Vec<(String, SystemTime)>> {
    let mut select = db.prepare("SELECT host, min(due_at) FROM queue GROUP BY host")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, time(row.get(1)?))))?;
    rows.collect()
}

fn select(
    db: &Connection,
    which: &str,
    values: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<Vec<Entry>> {
    let columns = "id, store, path, host, queued_at, tries, due_at, reason";
    let mut select = db.prepare(&format!("SELECT {columns} FROM queue {which}"))?;
    let rows = select.query_map(values, entry)?;
    Ok(rows
        .collect::<rusqlite::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// `None` for what is no store path: only another program can have put it there.
fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let path: String = row.get(2)?;
    let Ok(path) = StorePath::parse(&path) else {
        log::debug!("the queue of paths to push holds what is no store path");
        return Ok(None);
    };
    let store: Vec<u8> = row.get(1)?;
    Ok(Some(Entry {
        id: row.get(0)?,
        store: PathBuf::from(OsStr::from_bytes(&store)),
        path,
        host: row.get(3)?,
        queued_at: time(row.get(4)?),
        tries: row.get(5)?,
        due_at: time(row.get(6)?),
        reason: row.get(7)?,
    }))
}

pub(super) fn outlook(db: &Connection) -> rusqlite::Result<(u64, Option<SystemTime>)> {
    db.query_row("SELECT count(*), min(due_at) FROM queue", [], |row| {
        let due: Option<i64> = row.get(1)?;
        Ok((number(row, 0)?, due.map(time)))
    })
}

/// The store and the path of each entry.
pub(super) fn paths(db: &Connection) -> rusqlite::Result<BTreeSet<(PathBuf, String)>> {
    let mut select = db.prepare("SELECT DISTINCT store, path FROM queue")?;
    let rows = select.query_map([], |row| {
        let store: Vec<u8> = row.get(0)?;
        Ok((PathBuf::from(OsStr::from_bytes(&store)), row.get(1)?))
    })?;
    rows.collect()
}

/// Removes an entry; whether nothing else in the queue is that path.
pub(super) fn remove(db: &Connection, entry: &Entry) -> rusqlite::Result<bool> {
    db.execute("DELETE FROM queue WHERE id = ?1", [entry.id])?;
    let other: Option<i64> = db
        .query_row(
            "SELECT id FROM queue WHERE path = ?1 AND store = ?2 LIMIT 1",
            params![entry.path.as_str(), entry.store.as_os_str().as_bytes()],
            |row| row.get(0),
        )
        .optional()?;
    Ok(other.is_none())
}

pub(super) fn put_off(
    db: &Connection,
    entries: &[Entry],
    reason: &str,
    due: SystemTime,
) -> rusqlite::Result<()> {
    let mut update =
        db.prepare("UPDATE queue SET tries = tries + 1, due_at = ?2, reason = ?3 WHERE id = ?1")?;
    for entry in entries {
        update.execute(params![entry.id, millis(due), reason])?;
    }
    Ok(())
}

pub(super) fn make_due(db: &Connection, now: SystemTime) -> rusqlite::Result<()> {
    db.execute("UPDATE queue SET due_at = min(due_at, ?1)", [millis(now)])?;
    Ok(())
}

pub(super) fn remember(
    db: &Connection,
    entry: &Entry,
    reason: &str,
    now: SystemTime,
) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO given_up (path, host, reason, at) VALUES (?1, ?2, ?3, ?4)",
        params![entry.path.as_str(), entry.host, reason, millis(now)],
    )?;
    db.execute(
        "DELETE FROM given_up WHERE id <= (SELECT max(id) FROM given_up) - ?1",
        [GIVEN_UP_MAX],
    )?;
    Ok(())
}

pub(super) fn given_up(db: &Connection) -> rusqlite::Result<Vec<GivenUp>> {
    let mut select = db.prepare("SELECT path, host, reason, at FROM given_up ORDER BY id")?;
    let rows = select.query_map([], |row| {
        Ok(GivenUp {
            path: row.get(0)?,
            host: row.get(1)?,
            reason: row.get(2)?,
            at: time(row.get(3)?),
        })
    })?;
    rows.collect()
}

/// Forgets those that were given up before this time.
pub(super) fn forget(db: &Connection, before: SystemTime) -> rusqlite::Result<()> {
    db.execute("DELETE FROM given_up WHERE at < ?1", [millis(before)])?;
    Ok(())
}

/// SQLite's numbers have a sign.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
