//! What mends it. Commands are spelled out for the host in question, to be pasted.

use std::borrow::Cow;
use std::error::Error;
use std::path::Path;

use super::{remote, transport};
use crate::commands::{GetError, NixError};
use crate::config::{ConfigError, Host, HostError};
use crate::local_store::LocalStoreError;
use crate::model::Unproven;
use crate::pool::{AllRest, Banner};
use crate::remote::{HANDSHAKE, RemoteError};
use crate::resolver::{Distrust, Why};
use crate::transfer::HostFault;
use crate::transport::runtime_dir::RuntimeDirError;
use crate::transport::{Phase, TransportError};

type Hint = Cow<'static, str>;

const RUNTIME_DIR: &str =
    "set XDG_RUNTIME_DIR or SSH_SUBSTITUTER_RUNTIME_DIR to a folder that only you can write";

pub(super) fn hint(error: &(dyn Error + 'static)) -> Option<Hint> {
    if let Some(error) = transport(error) {
        return of_transport(error);
    }
    if let Some(error) = remote(error) {
        return of_remote(error);
    }
    if let Some(error) = error.downcast_ref() {
        return of_fault(error);
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_distrust(error));
    }
    if let Some(GetError::Nix(error)) = error.downcast_ref() {
        return of_nix(error).map(Cow::Borrowed);
    }
    if let Some(Banner { host, .. }) = error.downcast_ref() {
        let ssh = Login::of(host).ssh("true");
        return Some(format!("'{ssh}' must print nothing: let the shell start-up files there print only when they run in a terminal").into());
    }
    Some(Cow::Borrowed(match () {
        () if error.is::<HostError>() => {
            "a host is NAME, USER@NAME or ssh://USER@NAME:PORT?PARAMETER=VALUE&…"
        }
        () if error.is::<AllRest>() => {
            "each is tried again after 5 s to 5 min; the command that found them failing said why"
        }
        () if error.is::<RuntimeDirError>() => RUNTIME_DIR,
        () if error.is::<LocalStoreError>() => {
            "--store takes the folder that holds nix/store, / by default"
        }
        () if matches!(error.downcast_ref(), Some(GetError::Format { .. })) => {
            "move that file away: paths that are there are registered anew"
        }
        () => match error.downcast_ref() {
            Some(ConfigError::UntrustedHost { .. }) => {
                "ask the administrator to add it to trusted-ssh-substituter-hosts"
            }
            _ => return None,
        },
    }))
}

/// A host as it stands in messages, taken apart again.
struct Login<'a> {
    text: &'a str,
    host: Option<Host>,
}

impl<'a> Login<'a> {
    fn of(text: &'a str) -> Self {
        let host = Host::parse(text).ok();
        Self { text, host }
    }

    /// `-p PORT USER@NAME`
    fn words(&self, port_flag: &str) -> String {
        let Some(host) = &self.host else {
            return self.text.to_owned();
        };
        let port = host.port.map(|port| format!("{port_flag} {port} "));
        let user = host.user.as_ref().map(|user| format!("{user}@"));
        let (port, user) = (port.unwrap_or_default(), user.unwrap_or_default());
        format!("{port}{user}{}", host.name)
    }

    /// `ssh … COMMAND`
    fn ssh(&self, command: &str) -> String {
        format!("ssh {} {command}", self.words("-p"))
    }

    /// A log-in that tells what it does.
    fn verbose_ssh(&self) -> String {
        format!("ssh -v {} true", self.words("-p"))
    }

    fn copy_id(&self, key: Option<&Path>) -> String {
        let key = key.map(|key| {
            let key = key.to_string_lossy();
            format!("-i {} ", shell_words::quote(&key))
        });
        format!(
            "ssh-copy-id {}{}",
            key.unwrap_or_default(),
            self.words("-p")
        )
    }

    fn keyscan(&self) -> String {
        let mut bare = Self::of(self.text);
        if let Some(host) = &mut bare.host {
            host.user = None;
        }
        format!("ssh-keyscan {}", bare.words("-p"))
    }

    /// `[NAME]:PORT`, as known_hosts has it.
    fn known_as(&self) -> String {
        match &self.host {
            Some(Host {
                name,
                port: Some(port),
                ..
            }) => format!("[{name}]:{port}"),
            Some(host) => host.name.clone(),
            None => self.text.to_owned(),
        }
    }
}

fn of_transport(error: &TransportError) -> Option<Hint> {
    let login = Login::of(error.host().unwrap_or_default());
    Some(Cow::Owned(match error {
        TransportError::HostNameUnknown { name, .. } => format!(
            "check the spelling in ssh-substituter-hosts, or give {name} a HostName in ~/.ssh/config"
        ),
        TransportError::Refused { .. } => format!(
            "check that sshd runs there and listens at this port: '{}'; another port is written ssh://HOST:PORT",
            login.ssh("true")
        ),
        TransportError::Unreachable { .. } => format!(
            "check the network, the VPN or ProxyJump in ~/.ssh/config: '{}'",
            login.ssh("true")
        ),
        TransportError::TimedOut {
            phase: Phase::Queue,
            ..
        } => "the other process is held up by the host as well; raise connect-timeout if the host is only slow".to_owned(),
        TransportError::TimedOut { .. } => format!(
            "see where it hangs with '{}'; if the host is only slow, raise connect-timeout",
            login.verbose_ssh()
        ),
        TransportError::HostKeyUnknown { .. } => format!(
            "log in once as the user who runs this (root for the daemon) with '{}', or set base64-ssh-public-host-key in the host's URL",
            login.ssh("true")
        ),
        TransportError::HostKeyChanged { pinned: true, .. } => format!(
            "find out why; if the change is right, put the new key ('{}' shows it) into base64-ssh-public-host-key in the host's URL",
            login.keyscan()
        ),
        TransportError::HostKeyChanged { said, .. } => format!(
            "find out why; if the change is right, forget the old key with '{}'",
            forget_key(said, &login)
        ),
        TransportError::PermissionDenied { identity, said, .. } => {
            let copy = login.copy_id(identity.as_deref());
            match (key_trouble(said), identity) {
                (Some(trouble), _) => format!(
                    "ssh could not use the key: {}; see ssh-key in the host's URL",
                    trouble.trim_start_matches("Warning: ").trim_end_matches('.')
                ),
                (None, Some(_)) => format!(
                    "let the key in with '{copy}'; it must have no passphrase, or its agent be named by ssh-auth-sock"
                ),
                (None, None) => format!(
                    "name a key without passphrase with ssh-key=/path in the host's URL, or an agent with ssh-auth-sock, and let it in with '{copy}'; it is root who logs in for the daemon"
                ),
            }
        }
        TransportError::AgentUnusable { socket, .. } => format!(
            "let ssh-auth-sock name an agent that the user who runs this (root for the daemon) can use ('SSH_AUTH_SOCK={} ssh-add -l' asks it), or name a key with ssh-key=/path in the host's URL",
            shell_words::quote(&socket.to_string_lossy())
        ),
        TransportError::Disconnected { .. } => format!(
            "the host may limit connections (MaxStartups) or close at log-in: its sshd log tells; try '{}'",
            login.ssh("true")
        ),
        TransportError::SessionRefused { .. } => {
            "the host allows no (further) sessions: see MaxSessions in its sshd_config".to_owned()
        }
        TransportError::SshMissing { .. } => "install OpenSSH's client".to_owned(),
        TransportError::BadCommand { .. } => {
            "remote-program and remote-store may hold no quotes, backslashes or exclamation marks"
                .to_owned()
        }
        TransportError::RuntimeDir(_) => RUNTIME_DIR.to_owned(),
        TransportError::Other { .. } => {
            format!("'{}' may tell more", login.verbose_ssh())
        }
        _ => return None,
    }))
}

/// ssh's own advice names the file; without it the usual one is meant.
fn forget_key(said: &str, login: &Login<'_>) -> String {
    let advice = said.lines().map(str::trim);
    let mut advice = advice.filter(|line| line.starts_with("ssh-keygen -f "));
    match advice.next_back() {
        Some(command) => command.replace('\'', "\""),
        None => format!("ssh-keygen -R \"{}\"", login.known_as()),
    }
}

/// What ssh says of a key file that it could not use.
fn key_trouble(said: &str) -> Option<&str> {
    said.lines().find(|line| {
        line.starts_with("Load key ")
            || line.starts_with("Warning: Identity file ")
            || line.contains("UNPROTECTED PRIVATE KEY FILE")
    })
}

fn of_remote(error: &RemoteError) -> Option<Hint> {
    let login = Login::of(error.host().unwrap_or_default());
    let said = error.stderr().to_lowercase();
    Some(Cow::Owned(match error {
        RemoteError::NoServer {
            status: Some(127), ..
        } => no_nix(&login),
        RemoteError::NoServer { .. } if said.contains("not found") => no_nix(&login),
        _ if said.contains("is not in the nix store") => format!(
            "the store there is in another folder than the paths that are asked for: see NIX_STORE_DIR in '{}', or name the right store with remote-store in the host's URL",
            login.ssh("env")
        ),
        _ if said.contains("permission denied")
            || said.contains("operation not permitted")
            || said.contains("read-only")
            || said.contains("unable to open database") =>
        {
            "the account there may not read the Nix store or its database: log in as a user who may, or set remote-store=daemon in the host's URL".to_owned()
        }
        RemoteError::NoServer { program, .. } => format!(
            "run it by hand: '{}'; a ForceCommand there must run nix-store --serve",
            login.ssh(&format!("{program} --serve"))
        ),
        RemoteError::HandshakeTimedOut { program, .. } => format!(
            "the login worked: look for a shell start-up file or wrapper there that waits with '{}', or raise connect-timeout",
            login.ssh(&format!("{program} --serve"))
        ),
        RemoteError::Version { .. } => format!(
            "update Nix there: 1.8 is the oldest that is understood, '{}' tells which it is",
            login.ssh("nix-store --version")
        ),
        RemoteError::Protocol { doing, .. } if *doing == HANDSHAKE => format!(
            "something else than nix-store --serve answers there: see remote-program in the host's URL; and '{}' must print nothing",
            login.ssh("true")
        ),
        RemoteError::Protocol { .. } => format!(
            "the program there is broken or no nix-store: see remote-program in the host's URL and '{}'",
            login.ssh("nix-store --version")
        ),
        RemoteError::NotAsked { .. } => {
            "something answers there that is no nix-store: take the host out of ssh-substituter-hosts until that is mended".to_owned()
        }
        RemoteError::LinkDead { .. } => format!(
            "the host or the network on the way is down: try '{}'; for links that pause and come back, raise dead-link-timeout",
            login.ssh("true")
        ),
        RemoteError::Disconnected { .. } => format!(
            "the program or sshd there ended it, or the network did: their logs tell; try '{}'",
            login.ssh("true")
        ),
        RemoteError::Silent { .. } => format!(
            "the link was not found dead, so the host is likely busy or its nix-store hangs: look there with '{}', or raise stalled-download-timeout",
            login.ssh("ps -C nix-store -l")
        ),
        RemoteError::TooSlow { .. } => format!(
            "the host is overloaded, its link is nearly dead, or it keeps others waiting on purpose: look there with '{}', or raise stalled-download-timeout",
            login.ssh("uptime")
        ),
        RemoteError::Noise { .. } => format!(
            "something there writes without end: '{}' must print nothing",
            login.ssh("true")
        ),
        RemoteError::NotAsListed { path, .. } => format!(
            "it was collected or changed there while it was read: '{}' tells",
            login.ssh(&format!("nix-store --verify-path {path}"))
        ),
        RemoteError::Transport(_) | RemoteError::Rests { .. } => return None,
    }))
}

fn no_nix(login: &Login<'_>) -> String {
    format!(
        "install Nix there, or name the program with remote-program=/path/to/nix-store in the host's URL; '{}' shows where it is looked for",
        login.ssh("env")
    )
}

fn of_fault(error: &HostFault) -> Option<Hint> {
    let (host, path, command, what) = match error {
        HostFault::Mismatch { host, path, .. } | HostFault::Differs { host, path } => {
            (host, path, "--repair-path", "mend its store with")
        }
        HostFault::Malformed { host, path, .. } | HostFault::Disproved { host, path } => (
            host,
            path,
            "--verify-path",
            "find out whether its store is damaged with",
        ),
        HostFault::Remote(_) | HostFault::Lacks { .. } | HostFault::SpoiltBefore { .. } => {
            return None;
        }
    };
    let ssh = Login::of(host).ssh(&format!("nix-store {command} {path}"));
    Some(format!("{what} '{ssh}'").into())
}

fn of_nix(error: &NixError) -> Option<&'static str> {
    Some(match error {
        NixError::Missing => "install Nix, or put the paths into a folder with --to",
        NixError::Ended { said, .. } if said.contains("signature") => {
            "the daemon takes unsigned paths from its trusted-users only: sign them with a key in trusted-public-keys of its nix.conf, or run this as root"
        }
        NixError::Ended { doing, said }
            if doing.contains("addition") && said.contains("is not valid") =>
        {
            "Nix takes a path when all that it refers to is there: leave out --no-closure"
        }
        _ => return None,
    })
}

/// The three ways to mend it, but where only one of them is left.
fn of_distrust(error: &Distrust) -> Hint {
    let path = error.path.as_str();
    let command = format!("nix store sign --key-file FILE --recursive {path}");
    let sign = Login::of(&error.host).ssh(&command);
    let trust = "add trusted=true to the host's URL, which accepts all that it sends";
    Cow::Owned(match &error.why {
        // Nix 2.x has to be told a hash by whoever answers it.
        Why::NoHash => "update Nix there; with Nix 1.x as the caller, trusted=true in the host's URL does as well".to_owned(),
        Why::Unproven(Unproven::UnknownKeys { .. }) => format!(
            "if you trust that key, add it to trusted-public-keys as NAME:BASE64; or sign there with one that stands in it: '{sign}'; or {trust}"
        ),
        Why::Unproven(Unproven::Wrong { .. }) => format!(
            "find out how the path came there; to have it all the same, sign it anew with a key that stands in trusted-public-keys: '{sign}'; or {trust}"
        ),
        Why::NoSize | Why::Unproven(_) => format!(
            "sign there: '{sign}', and add the public key to trusted-public-keys; or {trust}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_hold_user_name_and_port() {
        assert_eq!(Login::of("h").ssh("true"), "ssh h true");
        assert_eq!(Login::of("u@h:22").ssh("true"), "ssh -p 22 u@h true");
        assert_eq!(Login::of("[::1]:22").ssh("true"), "ssh -p 22 ::1 true");
        assert_eq!(
            Login::of("u@h:22").copy_id(Some(Path::new("/a b"))),
            "ssh-copy-id -i '/a b' -p 22 u@h"
        );
        assert_eq!(Login::of("u@h:22").keyscan(), "ssh-keyscan -p 22 h");
        assert_eq!(Login::of("u@h:22").known_as(), "[h]:22");
    }

    #[test]
    fn ssh_itself_says_how_to_forget_a_key() {
        let login = Login::of("h");
        let said = "x\n  ssh-keygen -f '/k' -R '[h]:1'\ny";
        assert_eq!(
            forget_key(said, &login),
            "ssh-keygen -f \"/k\" -R \"[h]:1\""
        );
        assert_eq!(forget_key("x", &login), "ssh-keygen -R \"h\"");
    }
}
