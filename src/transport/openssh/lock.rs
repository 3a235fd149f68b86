//! Waiting for a file's lock without blocking the thread: flock(2) has no asynchronous form.

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::time::{Instant, sleep};

/// Locks a file for as long as it is open; false when that was not possible until then. Tries at
/// least once.
///
/// # Errors
/// When the file cannot be locked at all.
pub(super) async fn lock_until(file: &File, until: Instant) -> io::Result<bool> {
    let mut pause = Duration::from_millis(5);
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
