//! What to do about a host that sent a path wrongly, and about a path that no host delivered.

use super::{HostFault, TransferError};
use crate::config::host::SshTarget;
use crate::hint::Hint;

impl Hint for HostFault {
    fn hint(&self) -> Option<String> {
        let (host, path, command, what) = match self {
            Self::Remote(error) => return error.hint(),
            Self::FailedBefore(fault) => return fault.hint(),
            Self::Unproven { host, path } => {
                return Some(SshTarget::of(host).sign_or_trust(path.as_str()));
            }
            Self::Mismatch { host, path, .. } | Self::Differs { host, path } => {
                (host, path, "--repair-path", "repair its store with")
            }
            Self::Malformed { host, path, .. } | Self::Disproved { host, path } => (
                host,
                path,
                "--verify-path",
                "find out whether its store is damaged with",
            ),
            Self::CannotSend { host, path, .. } => (
                host,
                path,
                "--verify-path",
                "its store may be damaged, or the account may not read all of it: look with",
            ),
            Self::Lacks { .. } => return None,
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
