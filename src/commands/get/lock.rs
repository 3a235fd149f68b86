//! One run at a time puts paths into a folder.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::{GetError, io_error};

/// How long another run may take.
const WAIT: Duration = Duration::from_secs(60 * 60);

/// How often one looks whether it has ended.
const LOOK: Duration = Duration::from_millis(200);

/// Held as long as it lives. It is the folder itself that is locked, so nothing is left behind.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "the lock goes with the descriptor")] File);

impl Lock {
    /// Locks `folder`; waits, at most an hour, as long as another process has it locked.
    pub(super) async fn of(folder: &Path) -> Result<Self, GetError> {
        let file = File::open(folder).map_err(io_error("open", folder))?;
        let start = Instant::now();
        let mut told = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if start.elapsed() < WAIT => {
                    if !told {
                        log::info!(
                            "waiting: another process is putting paths into {}",
                            folder.display()
                        );
                        told = true;
                    }
                    tokio::time::sleep(LOOK).await;
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(GetError::InUse {
                        folder: folder.to_owned(),
                        minutes: WAIT.as_secs() / 60,
                    });
                }
                // Some network file systems lock no folders. Whatever two runs do there at the same time, what each
                // renames into place is whole.
                Err(error) => {
                    log::debug!("cannot lock {}: {error}", folder.display());
                    return Ok(Self(file));
                }
            }
        }
    }
}
