//! Why a path could not be delivered.

mod hint;

use std::sync::Arc;

use crate::model::StorePath;
use crate::remote::{RemoteError, RemoteErrorKind};
use crate::wire::nar::{Completion, NarError};

/// What was wrong with one host.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostFault {
    /// The connection failed.
    #[error(transparent)]
    Remote(#[from] Arc<RemoteError>),
    /// It has not the right NAR of a path.
    #[error("{host}: {}", .fault.text(.path))]
    Path {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
        /// What is wrong there.
        fault: PathFault,
    },
    /// It sent this path wrongly before, as the fault says, and is not asked for it again.
    #[error("{0} (found earlier: this host is not asked for it again)")]
    FailedBefore(Box<HostFault>),
}

/// What is wrong with a path on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathFault {
    /// It does not have the path, or not the same NAR.
    Lacks,
    /// It has the path, and cannot read it. Its nix-store ends then, and said this.
    CannotSend(String),
    /// What it sent is no acceptable NAR.
    Malformed(NarError),
    /// It sent another NAR than it reported: hash and size as promised, and as they came.
    Mismatch(String, String),
    /// Another host has other bytes there, and the whole NAR of that host has the expected hash.
    Disproved,
    /// It has what its content address says, but the way that address is computed proves nothing.
    Unproven,
    /// What another host had sent of it begins differently.
    Differs,
}

impl PathFault {
    fn text(&self, path: &StorePath) -> String {
        match self {
            Self::Lacks => format!("does not have {path}, or has it with another NAR hash"),
            Self::CannotSend(said) => format!("cannot send {path}; it said: {}", quoted(said)),
            Self::Malformed(error) => format!("sent {path} wrongly: {error}"),
            Self::Mismatch(expected, got) => {
                format!("sent {path} with the wrong content: expected {expected}, got {got}")
            }
            Self::Disproved => format!(
                "sent {path} with the wrong content: another host has other bytes, and the promised hash"
            ),
            Self::Unproven => format!(
                "has {path}, but its content address, as Nix 2.17 to 2.34 make it where a path refers to itself, \
                 proves nothing, and it is not signed by a trusted key: such paths from there are not used"
            ),
            Self::Differs => {
                format!("has other content for {path} than the host whose transfer broke off")
            }
        }
    }
}

impl From<NarError> for PathFault {
    fn from(error: NarError) -> Self {
        Self::Malformed(error)
    }
}

impl HostFault {
    /// What it means that the connection to `host` failed during the dump of `path`.
    pub(super) fn of_dump(error: RemoteError, host: String, path: StorePath) -> Self {
        let error = error.or_absent(std::slice::from_ref(&path));
        // nix-store ends when it cannot dump what it is asked for, and names it.
        let mut lines = error.stderr.lines().map(str::trim);
        let about_it =
            lines.rfind(|line| line.contains("error:") && line.contains(path.base_name()));
        let fault = match about_it {
            _ if matches!(error.kind, RemoteErrorKind::Absent(_)) => PathFault::Lacks,
            Some(said) => PathFault::CannotSend(said.to_owned()),
            None => return Self::Remote(Arc::new(error)),
        };
        Self::Path { host, path, fault }
    }
}

impl HostFault {
    /// Whether what was passed on before may be wrong.
    pub(super) fn is_wrong_content(&self) -> bool {
        let Self::Path { fault, .. } = self else {
            return false;
        };
        matches!(fault, PathFault::Mismatch(..) | PathFault::Differs)
    }
}

/// How much of a remote message a fault quotes, in characters.
const QUOTED_MAX_CHARS: usize = 300;

fn quoted(said: &str) -> String {
    said.chars().take(QUOTED_MAX_CHARS).collect()
}

/// Why a path could not be delivered.
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
    /// The sink takes no more.
    #[error("cannot write {path}")]
    Sink {
        /// The path.
        path: StorePath,
        /// The system's reason.
        source: std::io::Error,
    },
}

fn list(faults: &[HostFault]) -> String {
    let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    // A second attempt tends to fail as the first one.
    lines.dedup();
    if lines.is_empty() {
        return "no host has it".to_owned();
    }
    lines.join("; ")
}

/// A transfer that failed, and how to complete what was written of it.
#[derive(Debug)]
pub struct FailedTransfer {
    /// Why.
    pub error: TransferError,
    /// What completes the bytes that were passed on to a well-formed archive. Its hash is not the
    /// promised one.
    pub rest: Completion,
}
