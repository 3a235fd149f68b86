//! Why a backend gave no answer, or no NAR.

use std::error::Error;
use std::io;

use crate::hint::without_hint;
use crate::local_store::LocalStoreError;
use crate::resolver::NotFound;
use crate::transfer::TransferError;
use crate::wire::nar::Completion;

/// The store that answers failed: nothing can be answered any more.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BackendError(Box<dyn Error + Send + Sync>);

impl BackendError {
    /// Of whatever store it is.
    pub(super) fn new(source: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(source))
    }
}

/// A path that was not delivered.
#[derive(Debug)]
pub struct Undelivered {
    /// Why.
    pub error: DeliveryError,
    /// What makes a well-formed archive (with the wrong content) of the bytes that the sink has got.
    pub completion: Completion,
}

/// Why a path was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// No host has it.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// No host could deliver it.
    #[error(transparent)]
    Transfer(TransferError),
    /// The engine's reason, hints included.
    #[error("{0}")]
    Engine(String),
    /// The local store has it, and it cannot be read.
    #[error(transparent)]
    Local(LocalStoreError),
    /// The sink failed.
    #[error("cannot write it")]
    Sink(#[source] io::Error),
    /// Nothing can be answered any more.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

// Warnings about the hosts have come before, each with its hint.
without_hint!(DeliveryError);

impl From<TransferError> for DeliveryError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Sink { source, .. } => Self::Sink(source),
            error => Self::Transfer(error),
        }
    }
}

impl DeliveryError {
    /// Without a completion: the caller gets no more.
    pub(super) fn without_completion(self) -> Undelivered {
        Undelivered {
            error: self,
            completion: Completion::default(),
        }
    }
}
