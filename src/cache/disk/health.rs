//! What is known of hosts' failures.

use rusqlite::{Connection, OptionalExtension, params};

use super::Disk;

/// Times in milliseconds of Unix time. SQLite has signed numbers only; what does not fit is cut.
pub(super) const TABLE: &str = "CREATE TABLE host_health (
    host TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    last_failure INTEGER NOT NULL,
    rest_until INTEGER NOT NULL
) WITHOUT ROWID, STRICT;";

/// How many hosts are remembered: those that failed last.
const REMEMBERED: i64 = 1_000;

/// A host's failures. Times are milliseconds of Unix time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostHealth {
    /// Failures since it last did what was asked.
    pub failures: u32,
    /// When it failed last; without failures, when it was last in doubt.
    pub last_failure: u64,
    /// Until when it is left alone.
    pub rest_until: u64,
}

impl Disk {
    /// What is known of a host; none when nothing is, or there is no disk tier. Blocks.
    #[must_use]
    pub fn host_health(&self, host: &str) -> Option<HostHealth> {
        self.ask(|db| load(db, host)).flatten()
    }

    /// Remembers what is known of a host, or forgets it when that is the default. Blocks.
    pub fn set_host_health(&self, host: &str, health: &HostHealth) {
        self.ask(|db| save(db, host, health));
    }
}

fn load(db: &Connection, host: &str) -> rusqlite::Result<Option<HostHealth>> {
    let sql = "SELECT failures, last_failure, rest_until FROM host_health WHERE host = ?1";
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    db.prepare(sql)?
        .query_row([host], |row| {
            Ok(HostHealth {
                failures: u32::try_from(number(row.get(0)?)).unwrap_or(u32::MAX),
                last_failure: number(row.get(1)?),
                rest_until: number(row.get(2)?),
            })
        })
        .optional()
}

fn save(db: &Connection, host: &str, health: &HostHealth) -> rusqlite::Result<()> {
    if *health == HostHealth::default() {
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
    db.execute(
        "DELETE FROM host_health WHERE host IN (
            SELECT host FROM host_health ORDER BY last_failure DESC LIMIT -1 OFFSET ?1)",
        [REMEMBERED],
    )?;
    Ok(())
}
