//! Why a path could not be brought.

use std::sync::Arc;

use crate::model::StorePath;
use crate::remote::RemoteError;
use crate::wire::nar::{Completion, NarError};

/// What was wrong with one host.
#[derive(Debug, thiserror::Error)]
pub enum HostFault {
    /// The connection failed.
    #[error(transparent)]
    Remote(#[from] Arc<RemoteError>),
    /// It has not the path, or not the same NAR.
    #[error("{host}: does not have {path}, or has it with another NAR hash")]
    Lacks {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
    },
    /// What it sent is no acceptable NAR.
    #[error("{host}: sent {path} wrongly: {source}")]
    Malformed {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
        /// What is wrong.
        source: NarError,
    },
    /// It sent something else than it promised.
    #[error("{host}: sent {path} with the wrong content: expected {expected}, got {got}")]
    Mismatch {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
        /// Hash and size as promised.
        expected: String,
        /// Hash and size as they came.
        got: String,
    },
    /// Another host has something else there, and has all in all what was promised.
    #[error(
        "{host}: sent {path} with the wrong content: another host has other bytes, and the promised hash"
    )]
    Disproved {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
    },
    /// It sent it wrongly before, and is not asked again.
    #[error("{host}: sent {path} wrongly before")]
    SpoiltBefore {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
    },
    /// The beginning that another host had sent is not the same here.
    #[error("{host}: has {path} with another beginning than the host whose transfer broke")]
    Differs {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
    },
}

/// Why a path could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// No host could deliver it.
    #[error("no host could deliver {path}: {}", list(.faults))]
    Nobody {
        /// The path.
        path: StorePath,
        /// What was wrong with each host that was tried, in that order.
        faults: Vec<HostFault>,
    },
    /// Whoever wanted it takes no more.
    #[error("cannot write {path}")]
    Sink {
        /// The path.
        path: StorePath,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl TransferError {
    pub(super) fn nobody(path: StorePath, faults: Vec<HostFault>) -> Self {
        Self::Nobody { path, faults }
    }
}

fn list(faults: &[HostFault]) -> String {
    let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    // The second round tends to say what the first one said.
    lines.dedup();
    if lines.is_empty() {
        return "there is none".to_owned();
    }
    lines.join("; ")
}

/// A transfer that failed, and how to end what has been passed on of it.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: TransferError,
    /// What completes the bytes that were passed on to a well-formed archive. Its hash is not the
    /// promised one.
    pub rest: Completion,
}
