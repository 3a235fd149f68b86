//! What ssh gets to see of our environment.
//!
//! Whoever starts us may have an environment full of things: Nix's daemon hands on its whole
//! configuration, a desktop its windows and helpers, a shell what it likes. ssh, and the proxies that
//! it starts, get what they need and no more.

use tokio::process::Command;

use super::SshSettings;

/// What ssh, the shell that runs its `ProxyCommand` and its Kerberos library go by.
const NEEDED: &[&str] = &[
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "LANG",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "KRB5CCNAME",
    "KRB5_CONFIG",
];

/// The language of messages, in as many variables as there are aspects.
const NEEDED_PREFIX: &str = "LC_";

/// Gives a command that environment, and no other.
pub(super) fn prepare(command: &mut Command, settings: &SshSettings) {
    let is_wanted = |name: &str| {
        NEEDED.contains(&name)
            || name.starts_with(NEEDED_PREFIX)
            || settings.environment.iter().any(|wanted| wanted == name)
    };
    let all = std::env::vars_os();
    command
        .env_clear()
        .envs(all.filter(|(name, _)| name.to_str().is_some_and(is_wanted)))
        // BatchMode keeps ssh itself from asking, but not the ssh that it starts for a jump host:
        // there, every question is answered by a failure instead of a dead wait.
        .env("SSH_ASKPASS", "false")
        .env("SSH_ASKPASS_REQUIRE", "force");
    match &settings.auth_sock {
        Some(socket) => command.env("SSH_AUTH_SOCK", socket),
        None => command.env_remove("SSH_AUTH_SOCK"),
    };
}
