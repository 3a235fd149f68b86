//! What the doors ask of hosts, be it directly or through an engine.

use std::io;

use async_trait::async_trait;

use super::serve_loop::Backend;
use crate::hint::Hint;
use crate::model::StorePath;
use crate::resolver::NotFound;
use crate::transfer::{NarSink, TransferError};
use crate::wire::nar::Completion;

/// Answers from hosts. Nothing that a host does ends it: what cannot be had is not there.
#[async_trait]
pub trait Source: Backend {
    /// Brings the NAR of a path into `sink`: the very NAR of which [`Backend::path_infos`] told, if
    /// it did.
    ///
    /// # Errors
    /// When it cannot be delivered, with what completes what `sink` has got.
    async fn bring(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered>;
}

/// A path that was not delivered.
#[derive(Debug)]
pub struct Undelivered {
    /// Why.
    pub reason: Reason,
    /// What makes a well-formed archive (with the wrong content) of what the sink has got.
    pub rest: Completion,
}

/// Why a path was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// Nobody has it.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It could not be brought.
    #[error(transparent)]
    Transfer(TransferError),
    /// The engine says why, hints included.
    #[error("{0}")]
    Engine(String),
    /// Whoever wanted it takes no more.
    #[error("cannot write it")]
    Sink(#[source] io::Error),
}

impl Hint for Reason {
    fn hint(&self) -> Option<String> {
        // Warnings about the hosts have come before, each with its hint.
        None
    }
}

impl From<TransferError> for Reason {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Sink { source, .. } => Self::Sink(source),
            error => Self::Transfer(error),
        }
    }
}
