//! What to do about a host that sent a path wrongly, and about a path that no host delivered.

use super::{HostFault, PathFault, TransferError};
use crate::config::host::SshTarget;
use crate::hint::Hint;

impl Hint for HostFault {
    fn hint(&self) -> Option<String> {
        let (host, path, fault) = match self {
            Self::Remote(error) => return error.hint(),
            Self::FailedBefore(fault) => return fault.hint(),
            Self::Path { host, path, fault } => (host, path, fault),
        };
        let (command, what) = match fault {
            PathFault::Unproven => {
                return Some(SshTarget::of(host).sign_or_trust(path.as_str()));
            }
            PathFault::Mismatch(..) | PathFault::Differs => {
                ("--repair-path", "repair its store with")
            }
            PathFault::Malformed(_) | PathFault::Disproved => (
                "--verify-path",
                "find out whether its store is damaged with",
            ),
            PathFault::CannotSend(_) => (
                "--verify-path",
                "its store may be damaged, or the account may not read all of it: look with",
            ),
            PathFault::Lacks => return None,
        };
        let ssh = SshTarget::of(host).ssh(&format!("nix-store {command} {path}"));
        Some(format!("{what} '{ssh}'"))
    }

    fn remote_output(&self) -> Option<&str> {
        match self {
            Self::Remote(error) => error.remote_output(),
            _ => None,
        }
    }
}

impl Hint for TransferError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Nobody { faults, .. } => faults.iter().find_map(Hint::hint),
            Self::Sink { .. } => None,
        }
    }
}
