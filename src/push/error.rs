//! What can go wrong with a push.

use std::sync::Arc;

use crate::hint::Hint;
use crate::local_store::LocalStoreError;
use crate::model::StorePath;
use crate::remote::RemoteError;

/// Why nothing could be sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The local store has no such path, or cannot be read.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
    /// A root is not valid in the local store.
    #[error("path {0} is not valid in the local store")]
    NotValid(StorePath),
    /// Reading it was cut off.
    #[error("reading the local store was cut off")]
    Reading(#[source] tokio::task::JoinError),
}

impl Hint for PushError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(LocalStoreError::NotValid { path, .. }) | Self::NotValid(path) => {
                Some(format!(
                    "build it here first: 'nix-store --realise {path}'; another store is named with --store"
                ))
            }
            Self::Store(error) => error.hint(),
            Self::Reading(_) => None,
        }
    }
}

/// Why a host was given up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostFault {
    /// It could not be reached, or its connections broke and nothing got on.
    #[error(transparent)]
    Remote(Arc<RemoteError>),
    /// It takes nothing at all.
    #[error("{host} takes no paths: {reason}")]
    Refused {
        /// The host as the user named it.
        host: String,
        /// What the host said.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// It has refused so many paths that the others were not tried.
    #[error(
        "{host} has refused many paths, the others were not tried; of the last one it said: {reason}"
    )]
    ManyRefusals {
        /// The host as the user named it.
        host: String,
        /// What the host said last.
        reason: String,
    },
    /// The work for it broke off in this program.
    #[error("{0}: the push broke off")]
    Stopped(String),
}

impl Hint for HostFault {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Remote(error) => error.hint(),
            Self::Refused { hint, .. } => Some(hint.clone()),
            Self::ManyRefusals { .. } | Self::Stopped(_) => None,
        }
    }

    fn remote_output(&self) -> Option<&str> {
        match self {
            Self::Remote(error) => error.remote_output(),
            _ => None,
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
