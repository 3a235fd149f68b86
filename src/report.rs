//! From an error to what a person reads: message, causes, and what to do about it.
//!
//! This is the only place that knows remedies. The rooms below say what happened.

use std::error::Error;
use std::sync::Arc;

use crate::config::{ConfigError, HostError};
use crate::local_store::LocalStoreError;
use crate::pool::Banner;
use crate::remote::RemoteError;
use crate::resolver::Distrust;
use crate::transfer::HostFault;
use crate::transport::TransportError;
use crate::transport::runtime_dir::RuntimeDirError;

/// One line: the message, its causes, and the hint where there is one.
#[must_use]
pub fn line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in chain(error).skip(1) {
        let cause = cause.to_string();
        // Some messages quote their cause.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    match chain(error).find_map(hint) {
        Some(hint) => format!("{text} (hint: {hint})"),
        None => text,
    }
}

/// Tells of something that does not stop the work.
pub fn warn(error: &(dyn Error + 'static)) {
    log::warn!("{}", line(error));
    if let Some(said) = chain(error).find_map(said) {
        for said in said.lines() {
            log::debug!("  {said}");
        }
    }
}

/// Tells of something that ends the work.
pub fn error(error: &(dyn Error + 'static)) {
    log::error!("{}", line(error));
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}

/// Looks through the transparent layers for the transport's own error.
fn transport<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TransportError> {
    let remote = remote(error);
    match remote {
        Some(RemoteError::Transport(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

fn remote<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a RemoteError> {
    if let Some(HostFault::Remote(error)) = error.downcast_ref() {
        return Some(error);
    }
    error
        .downcast_ref::<RemoteError>()
        .or_else(|| error.downcast_ref::<Arc<RemoteError>>().map(|e| &**e))
}

/// Everything that ssh or the remote said.
fn said<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    if let Some(error) = transport(error) {
        return error.said();
    }
    remote(error)
        .map(RemoteError::stderr)
        .filter(|said| !said.is_empty())
}

fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = transport(error) {
        return transport_hint(error);
    }
    if let Some(error) = remote(error) {
        return remote_hint(error);
    }
    if let Some(error) = error.downcast_ref() {
        return config_hint(error);
    }
    if error.is::<HostError>() {
        return Some("a host is NAME, USER@NAME or ssh://USER@NAME:PORT?PARAMETER=VALUE&…");
    }
    if error.is::<RuntimeDirError>() {
        return Some(
            "set XDG_RUNTIME_DIR or SSH_SUBSTITUTER_RUNTIME_DIR to a folder that only you can write",
        );
    }
    if let Some(error) = error.downcast_ref() {
        return Some(match error {
            Distrust::Unsigned { .. } => {
                "to accept what is unsigned, add trusted=true to the host's URL, or set require-sigs = false"
            }
            Distrust::NoHash { .. } => "update Nix there, or add trusted=true to the host's URL",
        });
    }
    if error.is::<Banner>() {
        return Some("let the shell start-up files there print only when they run in a terminal");
    }
    if error.is::<LocalStoreError>() {
        return Some("--store takes the folder that holds nix/store, / by default");
    }
    None
}

fn transport_hint(error: &TransportError) -> Option<&'static str> {
    Some(match error {
        TransportError::HostNameUnknown { .. } => {
            "check the spelling in ssh-substituter-hosts, or give it a HostName in ~/.ssh/config"
        }
        TransportError::Refused { .. } => {
            "check that sshd runs there and that the URL has the right port (ssh://HOST:PORT)"
        }
        TransportError::Unreachable { .. } => {
            "check the network or VPN, or ProxyJump in ~/.ssh/config"
        }
        TransportError::TimedOut { .. } => {
            "check that the host is up and not behind a firewall, or raise connect-timeout"
        }
        TransportError::HostKeyUnknown { .. } => {
            "log in once with ssh as the same user (root for the daemon), or set base64-ssh-public-host-key in the host's URL"
        }
        TransportError::HostKeyChanged { .. } => {
            "find out why; if the change is right, remove the old key with ssh-keygen -R HOST"
        }
        TransportError::PermissionDenied { identity: None, .. } => {
            "name a key with ssh-key=/path in the host's URL; the user who runs this (root for the daemon) needs a key without passphrase, or an agent through ssh-auth-sock"
        }
        TransportError::PermissionDenied { .. } => {
            "check that the key of ssh-key is in the host's authorized_keys and can be read by the user who runs this, without a passphrase"
        }
        TransportError::Disconnected { .. } => {
            "the host may limit connections (MaxStartups) or close at log-in; its sshd log tells"
        }
        TransportError::SessionRefused { .. } => {
            "the host allows no (further) sessions: see MaxSessions in its sshd_config"
        }
        TransportError::SshMissing { .. } => "install OpenSSH's client",
        TransportError::BadCommand { .. } => {
            "remote-program and remote-store may hold no quotes, backslashes or exclamation marks"
        }
        TransportError::RuntimeDir(_) => {
            "set XDG_RUNTIME_DIR or SSH_SUBSTITUTER_RUNTIME_DIR to a folder that only you can write"
        }
        _ => return None,
    })
}

fn remote_hint(error: &RemoteError) -> Option<&'static str> {
    let said = error.stderr().to_lowercase();
    Some(match error {
        RemoteError::NoServer {
            status: Some(127), ..
        } => NO_NIX,
        RemoteError::NoServer { .. } if said.contains("not found") => NO_NIX,
        _ if said.contains("permission denied") || said.contains("read-only") => {
            "the account there may not read the Nix store or its database"
        }
        RemoteError::NoServer { .. } => {
            "run the program there by hand; a ForceCommand must run nix-store --serve"
        }
        RemoteError::HandshakeTimedOut { .. } => {
            "the login worked: look for a shell start-up file or wrapper there that waits, or raise connect-timeout"
        }
        RemoteError::Version { .. } => "update Nix there: 1.8 is the oldest that is understood",
        RemoteError::Protocol { doing, .. } if *doing == "the handshake" => {
            "something else than nix-store --serve answers there; see remote-program in the host's URL"
        }
        RemoteError::Silent { .. } => "if the host is only slow, raise stalled-download-timeout",
        _ => return None,
    })
}

const NO_NIX: &str = "install Nix there, or name the program with remote-program=/path/to/nix-store in the host's URL";

fn config_hint(error: &ConfigError) -> Option<&'static str> {
    match error {
        ConfigError::UntrustedHost { .. } => {
            Some("ask the administrator to add it to trusted-ssh-substituter-hosts")
        }
        _ => None,
    }
}
