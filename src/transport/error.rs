//! Why a host could not be reached: one variant for each cause that has a fix of its own. `hint` names the fixes.

mod hint;

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::runtime_dir::RuntimeDirError;

/// What was being done when the time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Another process was connecting to the same host, and this one waited for it.
    Queue,
    /// From ssh's start until the host let us in: proxy, TCP, key exchange, authentication.
    Connect,
    /// The host had let us in, but did not answer the request to start a program.
    Session,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "waiting for another process that is connecting",
            Self::Connect => "connecting and logging in",
            Self::Session => "asking for a session on the open connection",
        })
    }
}

/// Why a host could not be reached.
#[derive(Debug)]
pub struct TransportError {
    /// The host as configured; `None` when the trouble is this machine's alone.
    pub host: Option<String>,
    /// What failed.
    pub kind: TransportErrorKind,
    /// What ssh and its proxies printed, made harmless for terminals, at most about 2 KiB. Empty where they printed
    /// nothing, or were not started.
    pub ssh_output: String,
}

/// What failed on the way to a host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The name has no address.
    #[error("the host name '{0}' cannot be resolved")]
    HostNameUnknown(String),
    /// The machine is there, and nothing listens at the port.
    #[error("connection refused")]
    Refused,
    /// There is no way to the machine.
    #[error("no network route to the host")]
    Unreachable,
    /// No answer in time.
    #[error("no answer within {}, {phase}{}", seconds(.after), of_limit(*.limit, *.after, *.phase))]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
        /// `connect-timeout`; `None` when there is no limit, so that the time was ssh's own or the system's.
        limit: Option<Duration>,
        /// What was waited for.
        phase: Phase,
    },
    /// The host showed a key that is not known, and there is no terminal to ask on.
    #[error("its host key is not known")]
    HostKeyUnknown,
    /// The host showed another key than the known one.
    #[error("its host key is not the known one")]
    HostKeyChanged {
        /// Whether the known one is the one in the host's URL.
        pinned: bool,
    },
    /// The host would not let us in.
    #[error("permission denied{}", listed(.tried, .methods))]
    PermissionDenied {
        /// The ways of authentication that the host still offered (`publickey`, …).
        methods: Vec<String>,
        /// The key file that was named in the host's URL; others may have come from an agent or
        /// from ssh's configuration.
        identity: Option<PathBuf>,
        /// What was offered, as far as it can be told: key files, the agent.
        tried: Vec<String>,
    },
    /// The host would not let us in, and the agent that might have had the right key cannot be used.
    #[error(
        "permission denied, and the ssh agent at {} cannot be asked: {source}{}",
        .socket.display(),
        listed(.tried, &[])
    )]
    AgentUnusable {
        /// The agent's socket.
        socket: PathBuf,
        /// Why it cannot be used.
        source: io::Error,
        /// What was offered besides.
        tried: Vec<String>,
    },
    /// The connection broke off before a program could be started.
    #[error("the connection was closed")]
    Disconnected,
    /// Logged in, and the host refuses to start anything, or anything more.
    #[error("the host refuses to open a session")]
    SessionRefused,
    /// ssh ends at once where the user database of this machine does not know who runs it, as in
    /// containers that are started with any uid.
    #[error("ssh refuses to run as uid {0}, which has no entry in this machine's user database")]
    NoUser(u32),
    /// The host has let us in, and opens nothing more: no session on the connections that are there,
    /// and no further connection.
    #[error("the host opens no further session")]
    NoFurtherSession,
    /// No login is tried: the address has just refused some, and each further attempt would make it refuse
    /// for longer.
    #[error("not logged in to: its address refused a login {} s ago, the next is tried in {} s", .since.as_secs(), .wait.as_secs().max(1))]
    LoginHeldBack {
        /// How long ago the last login was refused.
        since: Duration,
        /// How long it is left alone from now on.
        wait: Duration,
    },
    /// There is no ssh.
    #[error("cannot run '{program}'")]
    SshMissing {
        /// The program that was looked for.
        program: PathBuf,
        /// Why it cannot be run.
        #[source]
        source: io::Error,
    },
    /// There is no safe folder for the sockets.
    #[error("no usable runtime folder")]
    RuntimeDir(#[source] RuntimeDirError),
    /// Something on this machine failed before ssh was asked.
    #[error("cannot {action}")]
    Local {
        /// What was tried, as a verb and its object.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A word of the remote command cannot be passed through every login shell.
    #[error("the word {0:?} cannot be part of the remote command")]
    BadCommand(String),
    /// ssh failed in a way that has no variant of its own: the first line that it printed.
    #[error("{0}")]
    Other(String),
}

impl TransportError {
    /// A failure with this host, about which ssh printed nothing.
    #[must_use]
    pub fn new(host: impl fmt::Display, kind: TransportErrorKind) -> Self {
        Self {
            host: Some(host.to_string()),
            ..Self::of_this_machine(kind)
        }
    }

    /// A failure that concerns all hosts alike.
    #[must_use]
    pub fn of_this_machine(kind: TransportErrorKind) -> Self {
        Self {
            host: None,
            kind,
            ssh_output: String::new(),
        }
    }

    /// Something on this machine failed before ssh was asked; `action` is a verb and its object.
    #[must_use]
    pub fn local(host: impl fmt::Display, action: &'static str, source: io::Error) -> Self {
        Self::new(host, TransportErrorKind::Local { action, source })
    }

    /// The same with what ssh printed.
    #[must_use]
    pub fn with_output(self, ssh_output: String) -> Self {
        Self { ssh_output, ..self }
    }

    /// Whether this machine failed, which says nothing about the host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(
            self.kind,
            TransportErrorKind::SshMissing { .. }
                | TransportErrorKind::RuntimeDir(_)
                | TransportErrorKind::NoUser(_)
                | TransportErrorKind::Local { .. }
                | TransportErrorKind::BadCommand(_)
        )
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}: ")?;
        }
        self.kind.fmt(f)
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

impl From<RuntimeDirError> for TransportError {
    fn from(error: RuntimeDirError) -> Self {
        Self::of_this_machine(TransportErrorKind::RuntimeDir(error))
    }
}

fn seconds(after: &Duration) -> String {
    if after.subsec_millis() == 0 || after.as_secs() >= 10 {
        format!("{} s", after.as_secs())
    } else {
        format!("{:.1} s", after.as_secs_f64())
    }
}

/// The configured limit, since less time may have been spent: ssh spends at most half of it on one address
/// (its `ConnectTimeout`), and a process waits as long for another one that connects first.
fn of_limit(limit: Option<Duration>, after: Duration, phase: Phase) -> String {
    let Some(limit) = limit else {
        return String::new();
    };
    let set = seconds(&limit);
    if phase == Phase::Connect && after < limit.mul_f64(0.9) {
        return format!(" (connect-timeout is {set}, at most half of it for one address)");
    }
    format!(" (connect-timeout is {set})")
}

fn listed(tried: &[String], methods: &[String]) -> String {
    let parts = [("tried", tried), ("the host accepts", methods)];
    let parts = parts.iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<_> = parts
        .map(|(what, list)| format!("{what}: {}", list.join(", ")))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join("; "))
    }
}
