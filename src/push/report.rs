//! What became of a push.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{HostFault, PathFault};
use crate::model::StorePath;
use crate::pool::HostId;

/// What became of a push.
#[derive(Debug, Default)]
pub struct PushReport {
    /// One for each host, in the order of the request.
    pub hosts: Vec<HostReport>,
    /// Roots that were left out since they are not valid in the local store.
    pub gone: Vec<StorePath>,
    /// How many paths the closure has.
    pub paths: usize,
    /// The size of their NARs together, in bytes.
    pub nar_bytes: u64,
}

impl PushReport {
    /// Whether every host has everything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.hosts.iter().all(HostReport::is_complete)
    }
}

/// What became of a push to one host.
#[derive(Debug)]
pub struct HostReport {
    /// Which one.
    pub host: HostId,
    /// As the user named it.
    pub name: String,
    /// What it had already, of the closure.
    pub there: usize,
    /// How many paths it has taken.
    pub sent: usize,
    /// The size of their NARs, in bytes.
    pub sent_bytes: u64,
    /// Bytes that were written to it, before ssh: requests, and what was sent twice.
    pub wire_bytes: u64,
    /// What of these went compressed.
    pub compressed: CompressedBytes,
    /// What it lacks, references first: in a dry run all that would be sent, else what could not be.
    pub missing: Vec<StorePath>,
    /// The size of the NARs of these, in bytes.
    pub missing_bytes: u64,
    /// Which of these failed by themselves, and those that refer to them, with the reason.
    pub failed: Vec<FailedPath>,
    /// Why the whole host was given up; then some of `missing` may not have been tried.
    pub error: Option<HostFault>,
}

impl HostReport {
    /// Whether the host has everything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.error.is_none()
    }
}

/// What went compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompressedBytes {
    /// How many bytes it is as it is.
    pub bytes: u64,
    /// How many were written for it.
    pub wire_bytes: u64,
}

/// A path that a host does not have in the end.
#[derive(Debug, Clone)]
pub struct FailedPath {
    /// The path.
    pub path: StorePath,
    /// Why.
    pub fault: Arc<PathFault>,
}

/// Sums over all hosts, while a push runs.
#[derive(Debug, Default)]
pub struct PushTotals {
    /// Paths that are to be sent, counted for each host.
    pub planned: AtomicU64,
    /// Bytes of their NARs.
    pub planned_bytes: AtomicU64,
    /// Those that hosts have taken.
    pub sent: AtomicU64,
    /// Bytes of their NARs.
    pub sent_bytes: AtomicU64,
    /// Bytes written to hosts, before ssh.
    pub wire_bytes: Arc<AtomicU64>,
}

impl PushTotals {
    /// So many more are to be sent; the sums with them.
    pub(super) fn plan(&self, paths: u64, nar_bytes: u64) -> (u64, u64) {
        (
            self.planned.fetch_add(paths, Ordering::Relaxed) + paths,
            self.planned_bytes.fetch_add(nar_bytes, Ordering::Relaxed) + nar_bytes,
        )
    }

    pub(super) fn sent(&self, nar_bytes: u64) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(nar_bytes, Ordering::Relaxed);
    }
}
