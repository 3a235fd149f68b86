//! How a host is asked for differences.

/// How a host is asked.
#[derive(Debug, Clone, Copy)]
pub(in crate::transfer) struct DeltaOptions {
    /// The level for its `zstd`.
    pub(in crate::transfer) level: u8,
    /// The size in bytes from which files come as patches.
    pub(in crate::transfer) patch_min: u64,
}
