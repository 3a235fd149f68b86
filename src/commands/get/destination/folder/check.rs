//! Checks the content of a folder.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::local_store::{CHUNK, Dump, LocalStoreError};
use crate::model::{NarHash, StorePath};

/// The NAR hash and size that a path is expected to have.
pub(super) struct ExpectedContent {
    pub(super) path: StorePath,
    hash: NarHash,
    /// Of the NAR, in bytes; 0 when it is not known.
    size: u64,
}

impl ExpectedContent {
    pub(super) fn new(path: &StorePath, hash: NarHash, size: u64) -> Self {
        let path = path.clone();
        Self { path, hash, size }
    }
}

/// Ends the threads when the task that waits for them is dropped.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Those of the paths in `store` whose NAR has the expected hash. Uses one thread for each processor.
pub(super) async fn find_right(store: &Path, expected: Vec<ExpectedContent>) -> HashSet<StorePath> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = expected.len().div_ceil(threads).max(1);
    let stop = Stop(Arc::default());
    let mut shares = JoinSet::new();
    let mut expected = expected.into_iter().peekable();
    while expected.peek().is_some() {
        let mine: Vec<_> = expected.by_ref().take(share).collect();
        let (store, stop) = (store.to_owned(), stop.0.clone());
        shares.spawn_blocking(move || {
            let right = |content: &ExpectedContent| match hash(&store, content, &stop) {
                Ok(hash) => hash == Some(content.hash),
                Err(error) => {
                    log::debug!("{}: {error}", content.path);
                    false
                }
            };
            let right = mine.into_iter().filter(right);
            right.map(|content| content.path).collect::<Vec<_>>()
        });
    }
    let mut right = HashSet::new();
    while let Some(share) = shares.join_next().await {
        // The panic hook has reported a panic; the paths of that thread are fetched again.
        right.extend(share.unwrap_or_default());
    }
    right
}

/// The NAR hash of a path; `None` when stopped.
fn hash(
    store: &Path,
    content: &ExpectedContent,
    stop: &AtomicBool,
) -> Result<Option<NarHash>, LocalStoreError> {
    let mut dump = Dump::of_files(store, &content.path, content.size)?;
    let mut hasher = Sha256::new();
    let mut chunk = Vec::with_capacity(CHUNK);
    while dump.next_chunk(&mut chunk)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        hasher.update(&chunk);
    }
    Ok(Some(NarHash::new(hasher.finalize().into())))
}
