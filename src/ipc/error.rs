//! Why an engine cannot be reached.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::hint::Hint;
use crate::transport::runtime_dir::RuntimeDirError;
use crate::wire::WireError;

/// Why there is no engine to talk to, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpcError {
    /// There is no folder for its socket.
    #[error(transparent)]
    NoFolder(#[from] RuntimeDirError),
    /// Its socket cannot be used.
    #[error("cannot use the engine's socket {}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No new one can be started.
    #[error("cannot start an engine")]
    Spawn(#[source] io::Error),
    /// Another user listens there.
    #[error("{} is the socket of user {uid}, not of this one", .path.display())]
    ForeignUser {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// It does not answer.
    #[error("the engine has not answered for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// It has ended.
    #[error("the engine has ended")]
    Closed,
    /// The connection to it broke.
    #[error("the connection to the engine broke")]
    Io(#[from] io::Error),
    /// It sent something that is not the protocol.
    #[error("the engine sent something wrong: {0}")]
    Wire(#[from] WireError),
    /// It does not serve this front end.
    #[error("the engine refuses: {0}")]
    Refused(String),
}

impl Hint for IpcError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoFolder(error) => error.hint(),
            Self::Socket { .. }
            | Self::Spawn(_)
            | Self::ForeignUser { .. }
            | Self::Silent(_)
            | Self::Closed
            | Self::Io(_)
            | Self::Wire(_)
            | Self::Refused(_) => None,
        }
    }
}

impl IpcError {
    /// Whether nobody listens at the socket.
    pub(super) fn is_not_listening(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Socket { source, .. }
            if matches!(source.kind(), NotFound | ConnectionRefused))
    }

    /// Whether a process listens at the socket and does nothing.
    pub(super) fn is_unresponsive(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::Socket { source, .. } => source.kind() == io::ErrorKind::TimedOut,
            _ => false,
        }
    }
}
