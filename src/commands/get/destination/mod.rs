//! Where paths are put, and what all destinations have in common.
//!
//! | module | what it does |
//! | --- | --- |
//! | `folder` | `--to DIR`: a folder laid out as a store |
//! | `binary_cache` | `--to file:///DIR` |
//! | `nix_store` | `--into-store` |
//! | `argument` | tells the first two apart |
//! | `blocking_sink` | takes a NAR to a thread that may block |
//! | `folder_lock` | one run at a time in a folder |

pub(super) mod argument;
pub(super) mod binary_cache;
mod blocking_sink;
pub(super) mod folder;
mod folder_lock;
pub(super) mod nix_store;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::error::GetError;
use crate::model::{PathInfo, StorePath};
use crate::transfer::NarSink;

/// Which step of a path waits for its references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands::get) enum ReferencesFirst {
    /// Its transfer.
    Transfer,
    /// Its registration.
    Registration,
}

/// A path that is in the destination.
#[derive(Debug, Clone)]
pub(in crate::commands::get) struct Present {
    pub(in crate::commands::get) path: StorePath,
    /// Those of its references that may be missing there.
    pub(in crate::commands::get) references: Vec<StorePath>,
}

/// A destination of paths.
#[async_trait]
pub(in crate::commands::get) trait Destination: Send + Sync {
    /// Which step of a path waits for its references.
    fn references_first(&self) -> ReferencesFirst;

    /// How many paths it takes at a time.
    fn at_once(&self) -> usize;

    /// Those of `paths` that are registered there and right.
    async fn present(&self, paths: &[StorePath]) -> Result<Vec<Present>, GetError>;

    /// Those of these paths that are there and right without being registered, as after a run that was interrupted.
    async fn find_unregistered(
        &self,
        _infos: &[Arc<PathInfo>],
    ) -> Result<HashSet<StorePath>, GetError> {
        Ok(HashSet::new())
    }

    /// The folder beside which incomplete NARs are kept; `None` for the private cache folder.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Called once, before the first path is received.
    async fn begin(&self) -> Result<(), GetError> {
        Ok(())
    }

    /// Takes the NAR of a path.
    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError>;

    /// Registers a path that has been received, and all of whose references are registered (or not wanted).
    async fn register(&self, _info: &Arc<PathInfo>) -> Result<(), GetError> {
        Ok(())
    }

    /// Called once after the last path, also when some failed.
    async fn end(&self) -> Result<(), GetError> {
        Ok(())
    }
}

/// A NAR that is being received. Dropped before it is finished, it leaves nothing that counts.
#[async_trait]
pub(in crate::commands::get) trait Incoming: NarSink {
    /// The NAR is complete and verified.
    ///
    /// # Errors
    /// When it could not be put there; also after a write that failed, then with the reason.
    async fn finish(self: Box<Self>) -> Result<(), GetError>;
}

/// No destination: for `--dry-run`.
pub(in crate::commands::get) struct Nowhere;

#[async_trait]
impl Destination for Nowhere {
    fn references_first(&self) -> ReferencesFirst {
        ReferencesFirst::Registration
    }

    fn at_once(&self) -> usize {
        1
    }

    async fn present(&self, _: &[StorePath]) -> Result<Vec<Present>, GetError> {
        Ok(Vec::new())
    }

    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError> {
        Err(GetError::Destination {
            given: info.path.to_string(),
            got: "no place",
        })
    }
}
