//! Opens channels to hosts: byte streams to a serve loop (or a shell) at the other end.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`openssh`] | over ssh: many channels on one connection, which outlives this process |
//! | [`process`] | a child process on this machine |
//! | [`runtime_dir`] | the private folder where the sockets of ssh connections live |

use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::host::Host;

mod awake_timeout;
mod closing_pipe;
mod error;
pub mod openssh;
pub mod process;
mod rate_limit;
pub mod runtime_dir;

pub use error::{Phase, TransportError, TransportErrorKind};
pub use openssh::{OpenSsh, SshSettings, count_masters, login_command};
pub use process::ProcessTransport;
pub use rate_limit::LimitedTransport;

/// Which program to start at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Exactly what the host's URL says (`nix-store --serve`): works with login shells of every
    /// kind and with wrappers that look at the command.
    AsConfigured,
    /// The same through `sh`, with the usual places of Nix added to PATH: for remotes whose
    /// non-interactive shell has no Nix in its PATH.
    InUsualPlaces,
    /// What the host's URL says, with `--write` behind `--serve`. Nix always runs that command, so some
    /// accounts allow nothing else. Only a push writes.
    WithWrite,
    /// The same through `sh`, as [`Program::InUsualPlaces`].
    WithWriteInUsualPlaces,
    /// A POSIX shell (`sh`) that reads commands from its stdin, in place of a serve program. An account
    /// without one (a forced command, git-shell, …) starts something else or closes the channel, which
    /// shows only in what comes back.
    Shell,
}

/// A running program at the other end, a serve loop as a rule.
pub struct Channel {
    /// Goes to the program's stdin. Shutting it down or dropping it is the end of file there.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// Comes from the program's stdout.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Comes from the program's stderr.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Owns the program: dropping it ends it.
    pub child: Box<dyn Child>,
    /// How long opening the channel took, as a measure of the round trip to the host. `None` when a
    /// connection had to be made first.
    pub opened_in: Option<Duration>,
}

/// The owner of a program that a transport started. Dropping it ends the program.
#[async_trait]
pub trait Child: Send + Sync {
    /// Waits for the program to end and returns its exit status; `None` when it was killed or the
    /// link went away. Call it under a time limit.
    async fn wait(self: Box<Self>) -> Option<i32>;

    /// What the link has printed so far, made harmless for terminals. ssh prints why a link ended when its
    /// keepalives were not answered. Empty when nothing was printed.
    fn link_output(&self) -> String {
        String::new()
    }

    /// Waits until the local process that holds the link stops responding (after SIGSTOP, say), and
    /// names that process for messages. Call it while no bytes arrive; the first probe is sent after some
    /// seconds. The default waits for ever.
    async fn link_unresponsive(&self) -> String {
        std::future::pending().await
    }

    /// Whether that process is already known not to respond. Does not wait.
    fn is_link_unresponsive(&self) -> bool {
        false
    }
}

/// Starts serve loops and shells on hosts.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Starts a program on `host`. The caller limits the time; a cancelled call leaves nothing behind
    /// that could harm.
    ///
    /// # Errors
    /// When the host cannot be reached or logged in to. If the program could not be started there, that
    /// shows on the channel: in its exit status and stderr.
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError>;
}
