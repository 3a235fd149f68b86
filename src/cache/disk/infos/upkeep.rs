//! Removes old rows and keeps the table bounded.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::Lifetimes;

/// When to prune, and how much may stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Rows.
    pub(super) rows: i64,
    /// Rows that may be written before it is due again.
    pub(super) written: i64,
    /// Seconds after which it is due in any case.
    pub(super) interval: u64,
}

impl Default for Bounds {
    /// About 200 MB at the worst; once a day.
    fn default() -> Self {
        Self {
            rows: 500_000,
            written: 50_000,
            interval: 24 * 3600,
        }
    }
}

/// Counts rows that were written.
pub(super) fn count(db: &Connection, written: i64) -> rusqlite::Result<()> {
    db.execute("UPDATE upkeep SET written = written + ?1", [written])?;
    Ok(())
}

/// Removes rows that are too old by the default lifetimes, and the oldest of those above the bound. Only now and
/// then, since it reads all rows.
pub(super) fn prune(
    db: &Connection,
    lifetimes: Lifetimes,
    now: u64,
    bounds: Bounds,
) -> rusqlite::Result<()> {
    if !is_due(db, now, bounds)? {
        return Ok(());
    }
    let change = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    // Another process may have done it meanwhile.
    if !is_due(&change, now, bounds)? {
        return Ok(());
    }
    // A process with short lifetimes must not remove rows that others use.
    let usual = Lifetimes::default();
    let oldest = |mine: Duration, usual: Duration| {
        let oldest = now.saturating_sub(mine.max(usual).as_secs());
        i64::try_from(oldest).unwrap_or(i64::MAX)
    };
    change.execute(
        "DELETE FROM path_infos WHERE checked_at < ?1 OR (nar_size IS NULL AND checked_at < ?2)",
        [
            oldest(lifetimes.positive, usual.positive),
            oldest(lifetimes.negative, usual.negative),
        ],
    )?;
    change.execute(
        "DELETE FROM path_infos WHERE checked_at <= (
            SELECT checked_at FROM path_infos ORDER BY checked_at DESC LIMIT 1 OFFSET ?1)",
        [bounds.rows],
    )?;
    change.execute(
        "DELETE FROM cached_hosts WHERE id NOT IN (SELECT DISTINCT host FROM path_infos)",
        (),
    )?;
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    change.execute("INSERT OR REPLACE INTO upkeep VALUES (1, ?1, 0)", [now])?;
    change.commit()
}

fn is_due(db: &Connection, now: u64, bounds: Bounds) -> rusqlite::Result<bool> {
    let number = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let state = db
        .query_row("SELECT pruned_at, written FROM upkeep", (), number)
        .optional()?;
    let (at, written) = state.unwrap_or_default();
    let age = now.abs_diff(u64::try_from(at).unwrap_or(0));
    Ok(age >= bounds.interval || written >= bounds.written)
}
