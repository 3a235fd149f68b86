//! Continued downloads: what a command has received of a large NAR is kept until it is complete, so that the next command
//! goes on from there when this one is interrupted.
//!
//! A file holds the first bytes of one NAR and is named by its hash. Nothing in it counts before a host has proven that it
//! has the same bytes there, by digests; and all that is passed on goes through the [verifier](super::verify) as if it
//! had just come. So what a disk has lost, or a host sent wrongly to an earlier command, costs time only.
//!
//! ```text
//!   Fetch ── what is passed on ─▶ Keeper ─▶ PartialFile          an interrupted command
//!   Fetch ◀─ PartialSource ◀─ proof ◀────── PartialFile          the next one, then chunks from the same byte
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `keeper` | what of one transfer is kept, and when that is worth it |
//! | `proof` | how far a file is the same as what hosts have |

mod keeper;
mod proof;

use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::model::{NarHash, PathInfo};
use crate::transfer::blocking;
pub(super) use keeper::Keeper;
pub(super) use proof::prove;

/// The smallest NAR of which something is kept, in bytes.
const MIN_NAR_SIZE: u64 = 16 << 20;

/// How long to wait for a transfer that uses the file: that of a command which was interrupted a moment ago.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How often it is tried meanwhile.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Where the first bytes of NARs are kept. Calls may block.
pub trait PartialFiles: Send + Sync {
    /// Removes what is too old to be of use. Gives the NARs of which something is left, and how many bytes that is.
    ///
    /// # Errors
    /// When the folder cannot be used.
    fn sweep(&self) -> io::Result<Vec<(NarHash, u64)>>;

    /// What is kept of a NAR; `None` when nothing is.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another transfer uses it, which may be one of another process; and when the folder
    /// or the file cannot be used.
    fn open(&self, nar: NarHash) -> io::Result<Option<Box<dyn PartialFile>>>;

    /// The same, made if there is none.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn create(&self, nar: NarHash) -> io::Result<Box<dyn PartialFile>>;

    /// Whether this and the files may block, as a real disk does.
    fn may_block(&self) -> bool {
        true
    }
}

/// The first bytes of one NAR, locked for one transfer until this is dropped. Calls may block.
pub trait PartialFile: Send + Sync {
    /// How many bytes there are.
    ///
    /// # Errors
    /// When the disk fails.
    fn size(&self) -> io::Result<u64>;

    /// Fills `bytes` with what was written at the offset `at`.
    ///
    /// # Errors
    /// When the disk fails, or there are fewer bytes.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all of `bytes` at the offset `at`, at most at the end of what there is. `rest` more bytes of the NAR will
    /// come, which may need room on the same disk.
    ///
    /// # Errors
    /// When the disk fails or is nearly full, or no more may be kept.
    fn write_at(&self, bytes: &[u8], at: u64, rest: u64) -> io::Result<()>;

    /// Drops what follows the first `size` bytes.
    ///
    /// # Errors
    /// When the disk fails.
    fn truncate(&self, size: u64) -> io::Result<()>;

    /// Removes it, whatever is done with it otherwise.
    fn remove(&self);
}

/// A file that is in use.
pub(super) type OpenPartial = Arc<dyn PartialFile>;

/// What is kept of NARs, for all transfers.
pub(super) struct Partials {
    files: Arc<dyn PartialFiles>,
    /// NARs of which something is kept, as far as known.
    known: Mutex<HashMap<NarHash, Known>>,
    swept: OnceCell<()>,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: u64,
    /// A transfer of this process has used it last.
    is_ours: bool,
    /// One does now.
    is_in_use: bool,
}

impl Partials {
    pub(super) fn new(files: Arc<dyn PartialFiles>) -> Self {
        Self {
            files,
            known: Mutex::default(),
            swept: OnceCell::new(),
        }
    }

    /// Finds out, once, of which NARs something is kept.
    pub(super) async fn load(&self) {
        self.swept.get_or_init(|| self.sweep()).await;
    }

    /// Removes what is too old. To be called now and then.
    pub(super) async fn sweep(&self) {
        let files = self.files.clone();
        match self.run(move || files.sweep()).await {
            Ok(found) => {
                let mut known = self.known.lock();
                let found = found.into_iter().map(|(nar, bytes)| {
                    let known = known.get(&nar);
                    let file = Known {
                        bytes,
                        is_ours: known.is_some_and(|known| known.is_ours),
                        is_in_use: known.is_some_and(|known| known.is_in_use),
                    };
                    (nar, file)
                });
                *known = found.collect();
            }
            Err(error) => log::debug!("no interrupted downloads are continued: {error}"),
        }
    }

    /// Whether something may be kept of a NAR that no transfer of this process brings now.
    pub(super) fn may_have(&self, info: &PathInfo) -> bool {
        let known = self.known(info);
        known.is_some_and(|known| !known.is_in_use)
    }

    fn known(&self, info: &PathInfo) -> Option<Known> {
        let nar = info.nar_hash.filter(|_| info.nar_size >= MIN_NAR_SIZE)?;
        self.known.lock().get(&nar).copied()
    }

    /// How many bytes are kept: of all NARs, or of those that transfers of this process have begun.
    pub(super) fn kept(&self, ours_only: bool) -> u64 {
        let known = self.known.lock();
        let counted = known.values().filter(|known| known.is_ours || !ours_only);
        counted.map(|known| known.bytes).sum()
    }

    /// Opens what is kept of a NAR, with its size.
    pub(super) async fn open(&self, info: &PathInfo) -> Option<(OpenPartial, u64)> {
        let nar = info.nar_hash.filter(|_| self.known(info).is_some())?;
        let give_up_at = Instant::now() + LOCK_TIMEOUT;
        loop {
            let files = self.files.clone();
            let opened = self.run(move || {
                let Some(file) = files.open(nar)? else {
                    return Ok(None);
                };
                let size = file.size()?;
                Ok(Some((OpenPartial::from(file), size)))
            });
            match opened.await {
                Ok(opened) => return opened,
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < give_up_at =>
                {
                    sleep(LOCK_RETRY_INTERVAL).await;
                }
                Err(error) => {
                    let path = &info.path;
                    log::debug!("{path}: what is kept of it cannot be used: {error}");
                    return None;
                }
            }
        }
    }

    /// Runs what may block where that is allowed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        blocking::run(self.files.may_block(), work).await?
    }
}
