//! How a host is asked for differences.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many MiB of files are held at a time for patches: those here, and what they become. A larger file counts as so much.
const MEMORY_MIB: u32 = 64;

/// How a host is asked.
#[derive(Debug, Clone)]
pub(in crate::transfer) struct DeltaOptions {
    /// The level for its `zstd`.
    pub(in crate::transfer) level: u8,
    /// The size in bytes from which files come as patches.
    pub(in crate::transfer) patch_min: u64,
    /// How many bytes of files come in a second; 0 where that is not known.
    pub(super) rate: u64,
    pub(super) memory: PatchMemory,
    /// Reading the files here may take long.
    pub(super) may_block: bool,
}

/// The memory for patches, for all paths together.
#[derive(Debug, Clone)]
pub(super) struct PatchMemory(Arc<Semaphore>);

impl Default for PatchMemory {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY_MIB as usize)))
    }
}

impl PatchMemory {
    /// Waits until so many bytes may be held. It may be as long as this lives.
    pub(super) async fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let mib = mib.saturating_add(1).min(MEMORY_MIB);
        // Never closed.
        self.0.clone().acquire_many_owned(mib).await.ok()
    }
}
