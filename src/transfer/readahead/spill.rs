//! NARs that are read ahead on disk, when the memory for them is used up: each in a file without a name, which is gone with
//! the process. Whatever goes wrong with a file costs that NAR's readahead, and its caller fetches it as if there had been
//! none.

use parking_lot::Mutex;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::budget::ByteBudget;
use crate::transfer::blocking;

/// How long nothing is written to disk after it has failed: it may be full.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// How many files are open at most: a process may have no more than about a thousand, and needs others.
const MAX_FILES: usize = 256;

/// Where files are made that NARs are read ahead into.
pub trait SpillDisk: Send + Sync {
    /// Makes a file with room for `size` bytes that nobody else can open and that is gone when it is closed, however the
    /// process ends.
    ///
    /// # Errors
    /// When there is no folder for it, or no room.
    fn create(&self, size: u64) -> io::Result<Box<dyn SpillFile>>;

    /// Whether this and the files may block, as a real disk does.
    fn may_block(&self) -> bool {
        true
    }
}

/// One such file.
pub trait SpillFile: Send + Sync {
    /// Writes all of `bytes` at the offset `at`.
    ///
    /// # Errors
    /// When the disk fails, or is full.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Fills `bytes` with what was written at the offset `at`.
    ///
    /// # Errors
    /// When the disk fails.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
}

/// The disk, and how much of it may be used.
pub(super) struct Spill {
    disk: Arc<dyn SpillDisk>,
    pub(super) budget: Arc<ByteBudget>,
    paused_until: Mutex<Option<Instant>>,
    files: Arc<AtomicUsize>,
}

/// An open file.
pub(super) struct OpenSpill {
    file: Box<dyn SpillFile>,
    may_block: bool,
    _count: FileCount,
}

/// Counts one file.
struct FileCount(Arc<AtomicUsize>);

impl Drop for FileCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spill {
    /// At most `bytes` bytes of `disk`.
    pub(super) fn new(disk: Arc<dyn SpillDisk>, bytes: u64) -> Self {
        Self {
            disk,
            budget: Arc::new(ByteBudget::new(bytes)),
            paused_until: Mutex::default(),
            files: Arc::default(),
        }
    }

    /// Whether files may be made: none has failed a moment ago, and there are not too many.
    pub(super) fn is_usable(&self) -> bool {
        let paused_until = *self.paused_until.lock();
        paused_until.is_none_or(|until| until <= Instant::now())
            && self.files.load(Ordering::Relaxed) < MAX_FILES
    }

    /// A file could not be made, written or read.
    pub(super) fn on_failure(&self, error: &io::Error) {
        log::debug!("nothing is read ahead on disk for a minute: {error}");
        *self.paused_until.lock() = Some(Instant::now() + PAUSE_AFTER_FAILURE);
    }

    /// Makes a file with room for `size` bytes.
    ///
    /// # Errors
    /// As [`SpillDisk::create`].
    pub(super) async fn create(&self, size: u64) -> io::Result<OpenSpill> {
        let disk = self.disk.clone();
        let may_block = disk.may_block();
        self.files.fetch_add(1, Ordering::Relaxed);
        let count = FileCount(self.files.clone());
        let file = blocking::run(may_block, move || disk.create(size)).await??;
        Ok(OpenSpill {
            file,
            may_block,
            _count: count,
        })
    }
}

impl OpenSpill {
    /// Writes pieces that follow each other, from the offset `at` on. Gives the digest of each.
    ///
    /// # Errors
    /// When the disk fails, or is full.
    pub(super) async fn write(
        self: &Arc<Self>,
        pieces: Vec<Bytes>,
        mut at: u64,
    ) -> io::Result<Vec<u64>> {
        let this = self.clone();
        blocking::run(self.may_block, move || {
            let mut digests = Vec::with_capacity(pieces.len());
            for piece in pieces {
                this.file.write_at(&piece, at)?;
                at += piece.len() as u64;
                digests.push(digest(&piece));
            }
            Ok(digests)
        })
        .await?
    }

    /// Reads a piece of `len` bytes.
    ///
    /// # Errors
    /// When the disk fails, or what it gives is not what was written.
    pub(super) async fn read(
        self: &Arc<Self>,
        at: u64,
        len: usize,
        expected: u64,
    ) -> io::Result<Bytes> {
        let this = self.clone();
        blocking::run(self.may_block, move || {
            let mut bytes = vec![0; len];
            this.file.read_at(&mut bytes, at)?;
            match digest(&bytes) == expected {
                true => Ok(bytes.into()),
                false => Err(io::Error::other("what is read is not what was written")),
            }
        })
        .await?
    }
}

/// Notices what a disk loses; nobody else can write to the file.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
