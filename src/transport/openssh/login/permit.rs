//! Logins are rationed: one at a time for each address, and no unnecessary one after a refusal.
//!
//! sshd counts refusals by source address and locks the address out for a growing time (OpenSSH 9.8
//! and newer: `PerSourcePenalties` in sshd_config(5), 5 s for each wrong key, in force from 15 s on).
//! Firewalls count connections (`ufw limit`: 6 in 30 s). A lockout also affects other hosts behind the
//! address and the user's own logins.
//!
//! ```text
//! ADDRESS.login    flock(2)ed by the process that logs in; holds the record of earlier logins by all
//!                  processes of this user
//! ADDRESS-1.login  flock(2)ed instead when the holder of the first lock is stopped, or keeps it for half
//!                  of the time that is left: a hung engine keeps no other process from a host
//! ```
//!
//! | login | goes ahead |
//! | --- | --- |
//! | the first to a host | unless two others were refused at this address just now: one in 8 s after that |
//! | one more to a host that has let us in | not for 30 s after a refusal, 60 s after the next one, …, at most 10 min; and not as the fifth in 30 s |

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::record::{LoginKind, LoginRecord};
use crate::folder::lock::{lock_until, open_lock};
use crate::transport::{TransportError, TransportErrorKind};

/// Suffix of these files.
pub(in crate::transport::openssh) const LOGIN_FILE_SUFFIX: &str = ".login";

/// How many locks there are for an address. One whose holder hangs is passed over.
const LOCKS_PER_ADDRESS: u32 = 4;

/// A record is one line of a few numbers; at most this many bytes of it are read.
const MAX_RECORD_LEN: u64 = 1 << 10;

/// The right to log in at an address. At most one process of this user has it.
pub(in crate::transport::openssh) struct LoginPermit {
    file: File,
    record: LoginRecord,
    /// The lock lasts as long as this is open. It may be the lock of `file`.
    _lock: File,
}

impl LoginPermit {
    /// Waits for the permit; `None` when it does not become free in time.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub(in crate::transport::openssh) async fn acquire(
        folder: &Path,
        address: &str,
        until: Instant,
    ) -> io::Result<Option<Self>> {
        let Some(lock) = Self::lock(folder, address, until).await? else {
            return Ok(None);
        };
        let file = open_lock(&record_path(folder, address))?;
        let mut text = String::new();
        // A record that cannot be read counts as empty.
        let _ = (&file).take(MAX_RECORD_LEN).read_to_string(&mut text);
        let record = LoginRecord::read(&text, unix_millis());
        Ok(Some(Self {
            file,
            record,
            _lock: lock,
        }))
    }

    async fn lock(folder: &Path, address: &str, until: Instant) -> io::Result<Option<File>> {
        let mut path = record_path(folder, address);
        for next in 1..LOCKS_PER_ADDRESS {
            let now = Instant::now();
            let half = now + until.saturating_duration_since(now) / 2;
            if let Some(lock) = lock_until(&path, half).await? {
                return Ok(Some(lock));
            }
            path = folder.join(format!("{address}-{next}{LOGIN_FILE_SUFFIX}"));
        }
        lock_until(&path, until).await
    }

    /// `Some` when no login of this kind may be tried yet: how long ago the last one was refused, and how
    /// long to wait from now on.
    pub(in crate::transport::openssh) fn backoff(
        &self,
        login: LoginKind,
    ) -> Option<(Duration, Duration)> {
        let now = unix_millis();
        let wait = self.record.wait(login, now);
        let since = now.saturating_sub(self.record.last_refusal);
        (wait > 0).then(|| (Duration::from_millis(since), Duration::from_millis(wait)))
    }

    /// Writes down how the login went, for all processes, and releases the permit.
    pub(in crate::transport::openssh) fn record_outcome(
        mut self,
        login: LoginKind,
        failure: Option<&TransportError>,
    ) {
        let now = unix_millis();
        match failure {
            None => self.record.record_success(login, now),
            Some(error) => self
                .record
                .record_failure(login, is_counted_by_host(error), now),
        }
        let mut write = || {
            self.file.rewind()?;
            self.file.set_len(0)?;
            self.file.write_all(self.record.to_line().as_bytes())
        };
        if let Err(error) = write() {
            log::debug!("cannot note how a login went: {error}");
        }
    }
}

fn record_path(folder: &Path, address: &str) -> PathBuf {
    folder.join(format!("{address}{LOGIN_FILE_SUFFIX}"))
}

/// Whether the host counts this failure against our address.
fn is_counted_by_host(error: &TransportError) -> bool {
    matches!(
        error.kind,
        TransportErrorKind::PermissionDenied { .. }
            | TransportErrorKind::AgentUnusable { .. }
            | TransportErrorKind::Disconnected
    )
}

fn unix_millis() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX / 2)
}
