//! Which keys and which agent ssh tried, for the message about a refused login.
//!
//! ssh reports them in debugging output only. But `ssh -G` prints the key files and the agent that result
//! from all configuration, without connecting to anything.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::host::Host;
use crate::transport::openssh::SshSettings;
use crate::transport::openssh::ssh::config::configuration;
use crate::transport::{TransportError, TransportErrorKind};

/// A local agent accepts a connection at once or not at all.
const AGENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long `ssh -G` may take, even when the time for connecting is nearly over.
const MIN_CONFIG_TIMEOUT: Duration = Duration::from_secs(1);

/// Adds to a refusal what was tried; returns other errors unchanged.
pub(in crate::transport::openssh) async fn add_tried(
    mut error: TransportError,
    host: &Host,
    settings: &SshSettings,
    deadline: Instant,
) -> TransportError {
    let TransportErrorKind::PermissionDenied {
        identity, tried, ..
    } = &mut error.kind
    else {
        return error;
    };
    let until = deadline.min(Instant::now() + MIN_CONFIG_TIMEOUT);
    let configuration = timeout_at(until, configuration(host, settings))
        .await
        .unwrap_or_default();
    let found = SshIdentities::read(&configuration);
    let home = home();
    *tried = found
        .keys
        .iter()
        .filter(|key| identity.as_deref() == Some(key) || exists(key, home.as_deref()))
        .map(|key| format!("key {}", key.display()))
        .collect();
    if let Some(socket) = found.agent(settings) {
        match reach(&socket).await {
            Ok(()) => tried.push(format!("agent {}", socket.display())),
            // The host has a key in its URL: the agent was not needed.
            Err(_) if identity.is_some() => {}
            Err(source) => {
                error.kind = TransportErrorKind::AgentUnusable {
                    socket,
                    source,
                    tried: mem::take(tried),
                };
                return error;
            }
        }
    }
    if tried.is_empty() {
        tried.push("no key and no agent".to_owned());
    }
    error
}

async fn reach(socket: &Path) -> io::Result<()> {
    match timeout(AGENT_TIMEOUT, UnixStream::connect(socket)).await {
        Ok(connected) => connected.map(drop),
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What matters in the output of `ssh -G`: lines of a lower-case keyword and a value.
#[derive(Debug, Default, PartialEq, Eq)]
struct SshIdentities {
    keys: Vec<PathBuf>,
    /// `IdentityAgent`, when it is set.
    agent: Option<String>,
}

impl SshIdentities {
    fn read(configuration: &str) -> Self {
        let mut found = Self::default();
        for line in configuration.lines() {
            match line.split_once(' ') {
                Some(("identityfile", key)) => found.keys.push(key.into()),
                Some(("identityagent", agent)) => found.agent = Some(agent.to_owned()),
                _ => {}
            }
        }
        found
    }

    /// The agent's socket, if there is to be an agent. See `IdentityAgent` in ssh_config(5).
    fn agent(&self, settings: &SshSettings) -> Option<PathBuf> {
        let from_environment = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let usual = || settings.auth_sock.clone();
        let socket = match self.agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => usual(),
            Some("none") => None,
            Some(text) => match text.strip_prefix('$') {
                Some(name) => from_environment(name),
                None => Some(text.into()),
            },
        };
        socket.filter(|socket| !socket.as_os_str().is_empty())
    }
}

fn exists(key: &Path, home: Option<&Path>) -> bool {
    match (key.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest).exists(),
        _ => key.exists(),
    }
}

/// The home folder as ssh finds it: by the user database, whatever `HOME` says.
fn home() -> Option<PathBuf> {
    let user = rustix::process::getuid().as_raw().to_string();
    let database = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = database
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&user.as_str()));
    match entry.as_ref().and_then(|fields| fields.get(5)) {
        Some(home) => Some(home.into()),
        None => std::env::home_dir(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_agent_are_read_and_the_rest_is_skipped() {
        let found = SshIdentities::read(
            "user u\nidentityfile ~/.ssh/a b\nidentityfile /k\nidentityagent none\nx\n\n",
        );
        assert_eq!(
            found.keys,
            [PathBuf::from("~/.ssh/a b"), PathBuf::from("/k")]
        );
        assert_eq!(found.agent(&SshSettings::default()), None);
    }

    #[test]
    fn the_agent_is_the_one_that_ssh_would_ask() {
        let settings = SshSettings {
            auth_sock: Some("/sock".into()),
            ..SshSettings::default()
        };
        let agent = |text: Option<&str>| {
            let agent = text.map(str::to_owned);
            let keys = Vec::new();
            SshIdentities { keys, agent }.agent(&settings)
        };
        assert_eq!(agent(None), Some("/sock".into()));
        assert_eq!(agent(Some("SSH_AUTH_SOCK")), Some("/sock".into()));
        assert_eq!(agent(Some("/other")), Some("/other".into()));
        assert_eq!(agent(Some("$NO_SUCH_VARIABLE_HERE")), None);
    }
}
