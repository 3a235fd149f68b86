//! How a configuration's hosts are reached by ssh, and what identifies the store behind each.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::config::host::Host;
use crate::transport::openssh::{CallingProcess, OpenSsh, SshSettings};
use crate::transport::{LimitedTransport, Transport};

/// How long a connection that a client's agent opened is kept for that client's next process.
const CLIENT_AGENT_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The transport to the hosts of `config`: OpenSSH, no faster than the configuration allows.
#[must_use]
pub fn ssh_transport(config: &Config) -> Arc<dyn Transport> {
    let ssh = Arc::new(OpenSsh::new(ssh_settings(config)));
    Arc::new(LimitedTransport::new(ssh, config.download_speed))
}

/// How ssh is used for the hosts of `config`.
#[must_use]
pub fn ssh_settings(config: &Config) -> SshSettings {
    let only_for = config.is_client_agent.then(CallingProcess::of_process);
    let idle_timeout = match only_for {
        Some(_) => CLIENT_AGENT_IDLE_TIMEOUT,
        None => SshSettings::default().idle_timeout,
    };
    SshSettings {
        ssh_options: config.ssh_options.clone(),
        auth_sock: config.ssh_auth_sock.clone(),
        only_for,
        idle_timeout,
        environment: config.ssh_environment.clone(),
        connect_timeout: config.connect_timeout,
        dead_link_timeout: config.dead_link_timeout,
        ..SshSettings::default()
    }
}

/// A text that identifies the store behind a host: another login, program or option to ssh may lead to another store. The
/// agent's socket is no part of it: it differs in each session and leads to the same store.
#[must_use]
pub fn store_identity(host: &Host, ssh_options: &[String]) -> String {
    let parts = std::iter::once(host.identity()).chain(ssh_options.iter().cloned());
    parts.collect::<Vec<_>>().join("\n")
}

/// As [`store_identity`], but apart for each agent that an unprivileged client chose: an account may run another program
/// for the keys of that agent, so that its answers are only for those who choose the same one.
pub(super) fn store_identity_for(config: &Config, host: &Host) -> String {
    let mut identity = store_identity(host, &config.ssh_options);
    if let (true, Some(agent)) = (config.is_client_agent, &config.ssh_auth_sock) {
        identity.push_str(&format!("\nagent {}", agent.display()));
    }
    identity
}
