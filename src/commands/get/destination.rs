//! Where paths are put: what all places have in common.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::error::GetError;
use crate::model::{PathInfo, StorePath};
use crate::transfer::NarSink;

/// What has to wait for the references of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Its whole transfer.
    Begin,
    /// That it counts as being there.
    Settle,
}

/// A path that is there.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) path: StorePath,
    /// Those of its references of which it is not sure that they are there.
    pub(super) references: Vec<StorePath>,
}

/// A place for paths.
#[async_trait]
pub(super) trait Destination: Send + Sync {
    /// What waits for references.
    fn gate(&self) -> Gate;

    /// How many paths it takes at a time.
    fn at_once(&self) -> usize;

    /// Those of `paths` that are registered there and right.
    async fn known(&self, paths: &[StorePath]) -> Result<Vec<Known>, GetError>;

    /// Those of the paths that hosts have which are there and right without being registered, as after a run that was
    /// ended.
    async fn holds(&self, infos: &[Arc<PathInfo>]) -> Result<HashSet<StorePath>, GetError>;

    /// Before anything is put there.
    async fn begin(&self) -> Result<(), GetError>;

    /// Takes the NAR of a path.
    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError>;

    /// The path has come, and all that it refers to is settled (or is not wanted).
    async fn settle(&self, info: &Arc<PathInfo>) -> Result<(), GetError>;

    /// No more will come; not all may have come.
    async fn end(&self) -> Result<(), GetError>;
}

/// A NAR on its way into a place. Dropped before it is finished, it leaves nothing that counts.
#[async_trait]
pub(super) trait Incoming: NarSink {
    /// The NAR has come whole and verified.
    ///
    /// # Errors
    /// When it could not be put there; also after a write that failed, then with the reason.
    async fn finish(self: Box<Self>) -> Result<(), GetError>;
}

/// No place: for looking only.
pub(super) struct Nowhere;

#[async_trait]
impl Destination for Nowhere {
    fn gate(&self) -> Gate {
        Gate::Settle
    }

    fn at_once(&self) -> usize {
        1
    }

    async fn known(&self, _: &[StorePath]) -> Result<Vec<Known>, GetError> {
        Ok(Vec::new())
    }

    async fn holds(&self, _: &[Arc<PathInfo>]) -> Result<HashSet<StorePath>, GetError> {
        Ok(HashSet::new())
    }

    async fn begin(&self) -> Result<(), GetError> {
        Ok(())
    }

    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError> {
        Err(GetError::Destination {
            given: info.path.to_string(),
            got: "no place",
        })
    }

    async fn settle(&self, _: &Arc<PathInfo>) -> Result<(), GetError> {
        Ok(())
    }

    async fn end(&self) -> Result<(), GetError> {
        Ok(())
    }
}
