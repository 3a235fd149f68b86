//! How a front end reaches its engine: the socket, who starts the engine, and the two ends of the connection.
//!
//! ```text
//! e-FINGERPRINT        the socket of the engine for this program and this configuration
//! e-FINGERPRINT.lock   flock(2)ed while a process makes or removes the socket; removed by the next one that spawns an engine
//! engine               a socket that a service manager listens on, for a configuration of its choice
//! ```
//!
//! All of them lie in the private folder of [`runtime_dir`](crate::transport::runtime_dir). A front end that finds no
//! engine makes the socket and passes it to a new process as standard input. It need not wait for that process:
//! connections queue up in the socket's backlog from the first moment. A socket on which no process listens is
//! replaced. The lock makes sure that there is one engine at most, however many front ends start at once.
//!
//! | module | what it does |
//! | --- | --- |
//! | `identity` | which program, with which configuration |
//! | `socket_path` | the folder, the names, the lock |
//! | `connect` | connects to a socket of this user |
//! | `launcher` | finds the engine, or starts it |
//! | `channel` | bytes over a socket, and file descriptors beside them |
//! | `client` | the front end's side of a connection |
//! | `message_dedup` | which messages the processes of one command have shown |

mod channel;
mod client;
mod connect;
mod error;
mod identity;
mod launcher;
mod message_dedup;
mod socket_path;

pub use crate::folder::SocketId;
pub use channel::{Channel, Received};
pub use client::Client;
pub use error::IpcError;
pub use identity::Identity;
pub use launcher::{Launcher, connect_or_spawn, current_folder, own_socket, wake_or_spawn};
pub use message_dedup::MessageDedup;
pub use socket_path::{SocketLock, SocketPath};
