//! Whether accounts have a shell: some only run `nix-store --serve`, whatever they are asked for. And whether what they run is
//! our program, which needs none.

use rusqlite::{Connection, OptionalExtension, params};

use super::health::keep_latest;
use super::{Disk, unix_seconds};

/// Times in seconds of Unix time.
pub(super) const TABLE: &str = "CREATE TABLE host_shell (
    host TEXT PRIMARY KEY,
    has_shell INTEGER NOT NULL,
    found_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;";

/// How long a row is believed, in seconds. Accounts are seldom changed, and a wrong row shows on the next use.
const SHELL_LIFETIME: u64 = 7 * 24 * 3600;

/// What stands for an account whose program speaks the extension. Earlier versions of this program take it for nothing.
pub(super) const EXTENSION: i64 = 2;

impl Disk {
    /// Whether the account behind `key` has a shell, if that was found out in the last 7 days. Blocks.
    #[must_use]
    pub fn host_shell(&self, key: &str) -> Option<bool> {
        let known = self.ask(|db| load(db, key, unix_seconds())).flatten()?;
        (0..=1).contains(&known).then_some(known == 1)
    }

    /// Whether the account behind `key` was found in the last 7 days to run a program that speaks the extension. Blocks.
    #[must_use]
    pub fn host_extension(&self, key: &str) -> bool {
        let known = self.ask(|db| load(db, key, unix_seconds())).flatten();
        known == Some(EXTENSION)
    }

    /// Remembers that the account behind `key` runs a program that speaks the extension. Blocks.
    pub fn set_host_extension(&self, key: &str) {
        self.ask(|db| save(db, key, EXTENSION, unix_seconds()));
    }

    /// Remembers whether the account behind `key` has a shell. Blocks.
    pub fn set_host_shell(&self, key: &str, has_shell: bool) {
        self.ask(|db| save(db, key, i64::from(has_shell), unix_seconds()));
    }
}

fn load(db: &Connection, key: &str, now: u64) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT has_shell, found_at FROM host_shell WHERE host = ?1";
    let row = db
        .prepare(sql)?
        .query_row([key], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    Ok(row.and_then(|(has_shell, found_at)| {
        let age = now.abs_diff(u64::try_from(found_at).ok()?);
        (age < SHELL_LIFETIME).then_some(has_shell)
    }))
}

fn save(db: &Connection, key: &str, has_shell: i64, now: u64) -> rusqlite::Result<()> {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    db.execute(
        "INSERT OR REPLACE INTO host_shell VALUES (?1, ?2, ?3)",
        params![key, has_shell, now],
    )?;
    keep_latest(db, "host_shell", "found_at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_believed_for_seven_days() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(TABLE).unwrap();
        assert_eq!(load(&db, "h", 5), Ok(None));
        save(&db, "h", 1, 1_000_000).unwrap();
        save(&db, "i", EXTENSION, 1_000_000).unwrap();
        let day = 24 * 3600;
        assert_eq!(load(&db, "h", 1_000_000 + 6 * day), Ok(Some(1)));
        assert_eq!(load(&db, "i", 1_000_000 + 6 * day), Ok(Some(EXTENSION)));
        assert_eq!(load(&db, "h", 1_000_000 + 7 * day), Ok(None));
        assert_eq!(
            load(&db, "h", 1_000_000 - 7 * day),
            Ok(None),
            "clock set back"
        );
    }
}
