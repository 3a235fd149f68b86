//! What can go wrong with a push.

use std::sync::Arc;

use crate::hint::Hint;
use crate::local_store::LocalStoreError;
use crate::model::StorePath;

/// Why nothing could be sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The local store has no such path, or cannot be read.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
    /// Reading it was cut off.
    #[error("reading the local store was cut off")]
    Reading(#[source] tokio::task::JoinError),
}

impl Hint for PushError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(LocalStoreError::NotValid { path, .. }) => Some(format!(
                "build it here first: 'nix-store --realise {path}'; another store is named with --store"
            )),
            Self::Store(error) => error.hint(),
            Self::Reading(_) => None,
        }
    }
}

/// Why a host does not have a path.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PathFault {
    /// The host refused it.
    #[error("{host} does not take {path}: {reason}")]
    Refused {
        /// The host as the user named it.
        host: String,
        /// The path.
        path: StorePath,
        /// What the host said.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Its files cannot be read here, or are gone.
    #[error("{path} cannot be read here, so it was not sent")]
    Unreadable {
        /// The path.
        path: StorePath,
        /// Why.
        #[source]
        source: Arc<LocalStoreError>,
    },
    /// Its files here are not what was registered.
    #[error("{path} is not sent: its content has changed here, expected {expected}, got {got}")]
    Changed {
        /// The path.
        path: StorePath,
        /// The registered hash and size.
        expected: String,
        /// Those of its files.
        got: String,
    },
    /// The local store has no hash or size of its NAR, and a host needs them first.
    #[error("{0} is not sent: the local store has no hash or size of its NAR")]
    NoHash(StorePath),
    /// It refers to one that the host does not have.
    #[error("{path} was not sent to {host}: it refers to {reference}, which is not there")]
    Reference {
        /// The host as the user named it.
        host: String,
        /// The path.
        path: StorePath,
        /// The one it refers to.
        reference: StorePath,
    },
}

impl PathFault {
    /// Whether it is a consequence of another fault.
    #[must_use]
    pub fn is_consequence(&self) -> bool {
        matches!(self, Self::Reference { .. })
    }
}

impl Hint for PathFault {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::Unreadable { path, .. } | Self::Changed { path, .. } => Some(format!(
                "fetch or build it anew: 'nix-store --repair-path {path}'"
            )),
            Self::NoHash(path) => Some(format!("'nix-store --verify-path {path}' tells more")),
            Self::Reference { .. } => None,
        }
    }
}
