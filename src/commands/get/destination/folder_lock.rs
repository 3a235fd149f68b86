//! One run at a time puts paths into a folder.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::commands::get::error::{GetError, io_error};

/// How long a run waits for another one.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How often locking is tried meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// A lock on a folder, held until it is dropped. The folder itself is locked, so no lock file is left behind.
#[derive(Debug)]
pub(super) struct FolderLock(
    #[allow(dead_code, reason = "the lock goes with the descriptor")] File,
);

impl FolderLock {
    /// Locks `folder`; waits for at most [`LOCK_TIMEOUT`] while another process has it locked.
    pub(super) async fn acquire(folder: &Path) -> Result<Self, GetError> {
        let file = File::open(folder).map_err(io_error("open", folder))?;
        let start = Instant::now();
        let mut has_logged = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if start.elapsed() < LOCK_TIMEOUT => {
                    if !has_logged {
                        log::info!(
                            "waiting: another process is putting paths into {}",
                            folder.display()
                        );
                        has_logged = true;
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(GetError::InUse {
                        folder: folder.to_owned(),
                        minutes: LOCK_TIMEOUT.as_secs() / 60,
                    });
                }
                // Some network file systems lock no folders. Runs at the same time do no harm there: each renames whole
                // paths into place.
                Err(error) => {
                    log::debug!("cannot lock {}: {error}", folder.display());
                    return Ok(Self(file));
                }
            }
        }
    }
}
