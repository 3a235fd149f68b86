//! How ssh is to be used.

use std::path::PathBuf;
use std::time::Duration;

use super::CallingProcess;

/// How ssh is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSettings {
    /// `ssh`, or a path to it.
    pub program: PathBuf,
    /// Further words for ssh's command line: `NIX_SSHOPTS`, split. They win over our defaults
    /// (`ConnectTimeout`, `ServerAliveInterval`, `LogLevel`) and lose against what a background
    /// master needs and what the host's URL says.
    pub ssh_options: Vec<String>,
    /// `ssh-auth-sock`: the agent to use. `None` uses none, whatever `$SSH_AUTH_SOCK` says.
    pub auth_sock: Option<PathBuf>,
    /// `Some` where connections may not be shared with all processes of this user: only those with the
    /// same calling process share them.
    pub only_for: Option<CallingProcess>,
    /// `ssh-environment`: names of variables that ssh gets besides those that it needs.
    pub environment: Vec<String>,
    /// The limit for everything from the start until a session is open: proxy, TCP, key
    /// exchange, authentication, session. Zero means no limit.
    pub connect_timeout: Duration,
    /// A link that leaves keepalives unanswered for so long (whole seconds, at least three) is dead.
    /// Part of a connection's identity, since a shared one keeps the value it was started with.
    pub dead_link_timeout: Duration,
    /// A connection without sessions ends after this time (whole seconds, at least one).
    pub idle_timeout: Duration,
    /// The private folder for sockets; `None` for the usual one.
    pub runtime_dir: Option<PathBuf>,
}

impl Default for SshSettings {
    fn default() -> Self {
        Self {
            program: PathBuf::from("ssh"),
            ssh_options: Vec::new(),
            auth_sock: None,
            only_for: None,
            environment: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            dead_link_timeout: Duration::from_secs(45),
            idle_timeout: Duration::from_secs(300),
            runtime_dir: None,
        }
    }
}

impl SshSettings {
    /// `connect-timeout`, where there is one.
    pub(super) fn limit(&self) -> Option<Duration> {
        Some(self.connect_timeout).filter(|limit| !limit.is_zero())
    }
}
