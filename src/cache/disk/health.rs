//! Hosts' health, between processes.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Disk;
use crate::model::HealthRecord;

/// Times in milliseconds of Unix time. SQLite has signed numbers only: larger ones are capped.
pub(super) const TABLE: &str = "CREATE TABLE host_health (
    host TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    last_failure INTEGER NOT NULL,
    rest_until INTEGER NOT NULL
) WITHOUT ROWID, STRICT;";

/// How many hosts are remembered: the latest ones.
const HOSTS_MAX: i64 = 1_000;

impl Disk {
    /// A host's record; `None` when there is none, or no disk tier. Blocks.
    #[must_use]
    pub fn host_health(&self, host: &str) -> Option<HealthRecord> {
        self.ask(|db| load(db, host)).flatten()
    }

    /// Sets a host's record, or removes it when it is the default. Blocks.
    pub fn set_host_health(&self, host: &str, health: &HealthRecord) {
        self.ask(|db| save(db, host, health));
    }
}

fn load(db: &Connection, host: &str) -> rusqlite::Result<Option<HealthRecord>> {
    let sql = "SELECT failures, last_failure, rest_until FROM host_health WHERE host = ?1";
    db.prepare(sql)?
        .query_row([host], |row| read(row, 0))
        .optional()
}

/// The record in three columns, `first` and the next two.
pub(super) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<HealthRecord> {
    let number = |at| -> rusqlite::Result<u64> {
        let value: i64 = row.get(first + at)?;
        Ok(u64::try_from(value).unwrap_or(0))
    };
    Ok(HealthRecord {
        failures: u32::try_from(number(0)?).unwrap_or(u32::MAX),
        last_failure: number(1)?,
        rest_until: number(2)?,
    })
}

fn save(db: &Connection, host: &str, health: &HealthRecord) -> rusqlite::Result<()> {
    if *health == HealthRecord::default() {
        db.execute("DELETE FROM host_health WHERE host = ?1", [host])?;
        return Ok(());
    }
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    db.execute(
        "INSERT OR REPLACE INTO host_health VALUES (?1, ?2, ?3, ?4)",
        params![
            host,
            health.failures,
            number(health.last_failure),
            number(health.rest_until)
        ],
    )?;
    keep_latest(db, "host_health", "last_failure")
}

/// Removes from a table with a column `host` all rows but the latest, by the column `time`.
pub(super) fn keep_latest(db: &Connection, table: &str, time: &str) -> rusqlite::Result<()> {
    let older = format!("SELECT host FROM {table} ORDER BY {time} DESC LIMIT -1 OFFSET ?1");
    let sql = format!("DELETE FROM {table} WHERE host IN ({older})");
    db.execute(&sql, [HOSTS_MAX]).map(drop)
}
