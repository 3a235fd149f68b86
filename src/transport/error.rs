//! Why a host could not be reached: one variant for each cause that has a fix of its own. `hint` names the fixes.

mod hint;

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
///
/// `ssh_output` is always what ssh and its proxies printed, made harmless for terminals, at most about
/// 2 KiB, possibly empty; [`TransportError::ssh_output`] returns it without a match.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The name has no address.
    #[error("{host}: the host name '{name}' cannot be resolved")]
    HostNameUnknown {
        /// The host as configured.
        host: String,
        /// The name that has no address: the host's `HostName`, or a jump host.
        name: String,
        /// What ssh printed.
        ssh_output: String,
    },
    /// The machine is there, and nothing listens at the port.
    #[error("{host}: connection refused")]
    Refused {
        /// The host as configured.
        host: String,
        /// What ssh printed.
        ssh_output: String,
    },
    /// There is no way to the machine.
    #[error("{host}: no network route to the host")]
    Unreachable {
        /// The host as configured.
        host: String,
        /// What ssh printed.
        ssh_output: String,
    },
    /// No answer in time.
    #[error("{host}: no answer within {}, {phase}{}", seconds(.after), of_limit(*.limit, *.after, *.phase))]
    TimedOut {
        /// The host as configured.
        host: String,
        /// How long it was waited for.
        after: Duration,
        /// `connect-timeout`; `None` when there is no limit, so that the time was ssh's own or the system's.
        limit: Option<Duration>,
        /// What was waited for.
        phase: Phase,
        /// What ssh printed.
        ssh_output: String,
    },
    /// The host showed a key that is not known, and there is no terminal to ask on.
    #[error("{host}: its host key is not known")]
    HostKeyUnknown {
        /// The host as configured.
        host: String,
        /// What ssh printed.
        ssh_output: String,
    },
    /// The host showed another key than the known one.
    #[error("{host}: its host key is not the known one")]
    HostKeyChanged {
        /// The host as configured.
        host: String,
        /// Whether the known one is the one in the host's URL.
        pinned: bool,
        /// What ssh printed.
        ssh_output: String,
    },
    /// The host would not let us in.
    #[error("{host}: permission denied{}", listed(.tried, .methods))]
    PermissionDenied {
        /// The host as configured.
        host: String,
        /// The ways of authentication that the host still offered (`publickey`, …).
        methods: Vec<String>,
        /// The key file that was named in the host's URL; others may have come from an agent or
        /// from ssh's configuration.
        identity: Option<PathBuf>,
        /// What was offered, as far as it can be told: key files, the agent.
        tried: Vec<String>,
        /// What ssh printed.
        ssh_output: String,
    },
    /// The host would not let us in, and the agent that might have had the right key cannot be used.
    #[error(
        "{host}: permission denied, and the ssh agent at {} cannot be asked: {source}{}",
        .socket.display(),
        listed(.tried, &[])
    )]
    AgentUnusable {
        /// The host as configured.
        host: String,
        /// The agent's socket.
        socket: PathBuf,
        /// Why it cannot be used.
        source: io::Error,
        /// What was offered besides.
        tried: Vec<String>,
        /// What ssh printed.
        ssh_output: String,
    },
    /// The connection broke off before a program could be started.
    #[error("{host}: the connection was closed")]
    Disconnected {
        /// The host as configured.
        host: String,
        /// What ssh printed.
        ssh_output: String,
    },
    /// Logged in, and the host refuses to start anything, or anything more.
    #[error("{host}: the host refuses to open a session")]
    SessionRefused {
        /// The host as configured.
        host: String,
        /// What ssh printed.
        ssh_output: String,
    },
    /// ssh ends at once where the user database of this machine does not know who runs it, as in
    /// containers that are started with any uid.
    #[error(
        "{host}: ssh refuses to run as uid {uid}, which has no entry in this machine's user database"
    )]
    NoUser {
        /// The host as configured.
        host: String,
        /// Who runs it.
        uid: u32,
        /// What ssh printed.
        ssh_output: String,
    },
    /// The host has let us in, and opens nothing more: no session on the connections that are there,
    /// and no further connection.
    #[error("{host}: the host opens no further session")]
    NoFurtherSession {
        /// The host as configured.
        host: String,
        /// What ssh printed.
        ssh_output: String,
    },
    /// No login is tried: the address has just refused some, and each further attempt would make it refuse
    /// for longer.
    #[error("{host}: not logged in to: its address refused a login {} s ago, the next is tried in {} s", .since.as_secs(), .wait.as_secs().max(1))]
    LoginHeldBack {
        /// The host as configured.
        host: String,
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
    RuntimeDir(
        #[from]
        #[source]
        RuntimeDirError,
    ),
    /// Something on this machine failed before ssh was asked.
    #[error("{host}: cannot {action}")]
    Local {
        /// The host as configured.
        host: String,
        /// What was tried, as a verb and its object.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A word of the remote command cannot be passed through every login shell.
    #[error("{host}: the word {word:?} cannot be part of the remote command")]
    BadCommand {
        /// The host as configured.
        host: String,
        /// The word.
        word: String,
    },
    /// ssh failed in a way that has no variant of its own.
    #[error("{host}: {}", first_line(.ssh_output))]
    Other {
        /// The host as configured.
        host: String,
        /// What ssh printed.
        ssh_output: String,
    },
}

impl TransportError {
    /// The host as configured; `None` when the trouble is this machine's alone.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::HostNameUnknown { host, .. }
            | Self::Refused { host, .. }
            | Self::Unreachable { host, .. }
            | Self::TimedOut { host, .. }
            | Self::HostKeyUnknown { host, .. }
            | Self::HostKeyChanged { host, .. }
            | Self::PermissionDenied { host, .. }
            | Self::AgentUnusable { host, .. }
            | Self::Disconnected { host, .. }
            | Self::SessionRefused { host, .. }
            | Self::NoUser { host, .. }
            | Self::NoFurtherSession { host, .. }
            | Self::LoginHeldBack { host, .. }
            | Self::Local { host, .. }
            | Self::BadCommand { host, .. }
            | Self::Other { host, .. } => Some(host),
            Self::SshMissing { .. } | Self::RuntimeDir(_) => None,
        }
    }

    /// What ssh printed, if it got that far and printed anything.
    pub fn ssh_output(&self) -> Option<&str> {
        match self {
            Self::HostNameUnknown { ssh_output, .. }
            | Self::Refused { ssh_output, .. }
            | Self::Unreachable { ssh_output, .. }
            | Self::TimedOut { ssh_output, .. }
            | Self::HostKeyUnknown { ssh_output, .. }
            | Self::HostKeyChanged { ssh_output, .. }
            | Self::PermissionDenied { ssh_output, .. }
            | Self::AgentUnusable { ssh_output, .. }
            | Self::Disconnected { ssh_output, .. }
            | Self::SessionRefused { ssh_output, .. }
            | Self::NoUser { ssh_output, .. }
            | Self::NoFurtherSession { ssh_output, .. }
            | Self::Other { ssh_output, .. } => {
                Some(ssh_output.as_str()).filter(|ssh_output| !ssh_output.is_empty())
            }
            Self::SshMissing { .. }
            | Self::RuntimeDir(_)
            | Self::LoginHeldBack { .. }
            | Self::Local { .. }
            | Self::BadCommand { .. } => None,
        }
    }
}

impl TransportError {
    /// Whether this machine failed, which says nothing about the host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            Self::SshMissing { .. }
                | Self::RuntimeDir(_)
                | Self::NoUser { .. }
                | Self::Local { .. }
                | Self::BadCommand { .. }
        )
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

fn first_line(ssh_output: &str) -> &str {
    ssh_output
        .lines()
        .find(|line| !line.is_empty())
        .unwrap_or("ssh failed without a message")
}
