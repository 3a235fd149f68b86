//! Waiting for the lock of a file without blocking the thread: flock(2) has no asynchronous form.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::folder::try_lock;

/// Opens and locks a file in a private folder, as [`try_lock`] does; `None` when that was not possible until
/// then. Tries at least once. The lock lasts as long as the file is open.
///
/// # Errors
/// When the file cannot be opened or locked at all.
pub(super) async fn lock_until(path: &Path, until: Instant) -> io::Result<Option<File>> {
    let mut pause = Duration::from_millis(5);
    loop {
        match try_lock(path) {
            Ok(file) => return Ok(Some(file)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
