//! Where front ends and their engine meet: the socket, how the engine is started, and the two ends
//! of the connection.
//!
//! ```text
//! e-FINGERPRINT        the socket of the engine for this program and this configuration
//! e-FINGERPRINT.lock   flock(2)ed while somebody starts or removes it; removed by who starts another one
//! engine               a socket that a service manager listens on, for a configuration of its choice
//! ```
//!
//! All of them lie in the private folder of [`runtime_dir`](crate::transport::runtime_dir). Whoever
//! finds no engine makes the socket and hands it to a new process as its standard input, so that
//! nobody has to wait for that process: connections queue up on the socket from the first moment. A
//! socket that nobody listens on any more is replaced. So there is one engine at most, whoever begins
//! at the same time.
//!
//! | module | what it does |
//! | --- | --- |
//! | `fingerprint` | which program, with which configuration |
//! | `place` | the folder, the names, the lock |
//! | `start` | finds the engine, or starts it |
//! | `channel` | bytes, and a pipe beside them |
//! | `client` | the front end's side of a connection |
//! | `shown` | which messages the processes of one command have shown |

mod channel;
mod client;
mod fingerprint;
mod place;
mod shown;
mod start;

pub use channel::{Channel, Incoming};
pub use client::Client;
pub use fingerprint::Identity;
pub use place::{Lock, Place, SocketId};
pub use shown::ShownOnce;
pub use start::{Starter, current_folder, meet, own_socket};

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::hint::Hint;
use crate::transport::runtime_dir::RuntimeDirError;
use crate::wire::WireError;

/// Why an engine cannot be had, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeetingError {
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
    Start(#[source] io::Error),
    /// Whoever listens there is another user.
    #[error("{} is the socket of user {uid}, not of this one", .path.display())]
    Stranger {
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
    Gone,
    /// The connection to it broke.
    #[error("the connection to the engine broke")]
    Io(#[from] io::Error),
    /// It sent something that is not the protocol.
    #[error("the engine sent something wrong: {0}")]
    Wire(#[from] WireError),
    /// It is not for this front end.
    #[error("the engine refuses: {0}")]
    Refused(String),
}

impl Hint for MeetingError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoFolder(error) => error.hint(),
            _ => None,
        }
    }
}
