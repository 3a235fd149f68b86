//! What mends it. Commands are spelled out for the host in question, to be pasted.

mod login;

use std::borrow::Cow;
use std::error::Error;

use login::Login;

use super::{remote, transport};
use crate::commands::{GetError, NixError};
use crate::config::{ConfigError, HostError};
use crate::local_store::LocalStoreError;
use crate::model::{SignatureError, StorePath};
use crate::pool::{AllHostsResting, Banner};
use crate::remote::{HANDSHAKE, RemoteError};
use crate::resolver::{Distrust, Why};
use crate::transfer::{HostFault, TransferError};
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
    if let Some(TransferError::Nobody { faults, .. }) = error.downcast_ref() {
        return faults.iter().find_map(|fault| hint(fault));
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
        () if error.is::<AllHostsResting>() => {
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
        TransportError::HostKeyChanged { ssh_output, .. } => format!(
            "find out why; if the change is right, forget the old key with '{}'",
            forget_key(ssh_output, &login)
        ),
        TransportError::PermissionDenied { identity, ssh_output, .. } => {
            let copy = login.copy_id(identity.as_deref());
            match (key_trouble(ssh_output), identity) {
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
            "the host may limit connections (MaxStartups, PerSourcePenalties or a firewall) or close at log-in: its sshd log tells; try '{}'",
            login.ssh("true")
        ),
        TransportError::SessionRefused { .. } | TransportError::NoFurtherSession { .. } => {
            "the host allows no (further) sessions: see MaxSessions in its sshd_config".to_owned()
        }
        TransportError::NoUser { uid, .. } => format!(
            "add a line such as 'ci:x:{uid}:{}::/tmp:/bin/sh' to /etc/passwd; or set LD_PRELOAD=libnss_wrapper.so (of nss_wrapper) with NSS_WRAPPER_PASSWD and NSS_WRAPPER_GROUP naming files of one's own, which ssh gets too",
            rustix::process::getgid().as_raw()
        ),
        TransportError::LoginHeldBack { .. } => format!(
            "sshd's PerSourcePenalties or a firewall's limit lock out who is refused too often: mend the hosts at this address that are refused, see '{}'",
            login.verbose_ssh()
        ),
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
fn forget_key(ssh_output: &str, login: &Login<'_>) -> String {
    let advice = ssh_output.lines().map(str::trim);
    let mut advice = advice.filter(|line| line.starts_with("ssh-keygen -f "));
    match advice.next_back() {
        Some(command) => command.replace('\'', "\""),
        None => format!("ssh-keygen -R \"{}\"", login.known_as()),
    }
}

/// What ssh says of a key file that it could not use.
fn key_trouble(ssh_output: &str) -> Option<&str> {
    ssh_output.lines().find(|line| {
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
            "run it by hand: '{}'; a ForceCommand there must run nix-store --serve, and an account that allows certain commands only must allow exactly '{program} --serve' or '{program} --serve --write', which were both tried",
            login.ssh(&format!("{program} --serve"))
        ),
        RemoteError::OnlyDaemon { .. } => "put nix-store --serve in place of nix-daemon --stdio: as command=\"nix-store --serve\" before the key in authorized_keys there, as ForceCommand in its sshd_config, or on NixOS with nix.sshServe.protocol = \"ssh\"; or log in with a key or as a user for whom it stands there".to_owned(),
        RemoteError::HandshakeTimedOut { program, .. } => format!(
            "the login worked: look for a shell start-up file or wrapper there that waits with '{}', or raise connect-timeout",
            login.ssh(&format!("{program} --serve"))
        ),
        RemoteError::Version { .. } => format!(
            "update Nix there: 1.8 is the oldest that is understood, '{}' tells which it is",
            login.ssh("nix-store --version")
        ),
        RemoteError::Protocol { doing, .. } if *doing == HANDSHAKE => format!(
            "what answers there is not nix-store --serve: see remote-program in the host's URL; and '{}' must print nothing",
            login.ssh("true")
        ),
        RemoteError::Protocol { .. } => format!(
            "the program there is broken, or it is not nix-store: see remote-program in the host's URL and '{}'",
            login.ssh("nix-store --version")
        ),
        RemoteError::Unsolicited { .. } => {
            "what answers there is not nix-store: take the host out of ssh-substituter-hosts until that is mended".to_owned()
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
        RemoteError::StderrFlood { .. } => format!(
            "something there writes without end: '{}' must print nothing",
            login.ssh("true")
        ),
        RemoteError::NotAsListed { path, .. } => format!(
            "it was collected or replaced there meanwhile: '{}' tells",
            login.ssh(&format!("nix-store --verify-path {path}"))
        ),
        RemoteError::Busy { .. } => {
            "others use them: wait, or raise max-connections in the host's URL".to_owned()
        }
        RemoteError::LinkStopped { .. } => {
            "it was stopped, or hangs; another one is started in its place".to_owned()
        }
        // Of a host that is left alone, the cause says what mends it.
        RemoteError::Transport(_) | RemoteError::Resting { .. } | RemoteError::Absent { .. } => {
            return None;
        }
    }))
}

fn no_nix(login: &Login<'_>) -> String {
    format!(
        "install Nix there, or name the program with remote-program=/path/to/nix-store in the host's URL; '{}' shows where it is looked for",
        login.ssh("env")
    )
}

fn of_fault(error: &HostFault) -> Option<Hint> {
    if let HostFault::Unproven { host, path } = error {
        return Some(sign_or_trust(host, path).into());
    }
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
        HostFault::CannotSend { host, path, .. } => (
            host,
            path,
            "--verify-path",
            "its store may be damaged, or the account may not read all of it: look with",
        ),
        HostFault::FailedBefore(fault) => return of_fault(fault),
        HostFault::Remote(_) | HostFault::Lacks { .. } | HostFault::Unproven { .. } => return None,
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
    let (sign, trust) = (signing(&error.host, &error.path), TRUSTING);
    Cow::Owned(match &error.why {
        // Nix 2.x has to be told a hash by whoever answers it.
        Why::NoHash => "update Nix there; with Nix 1.x as the caller, trusted=true in the host's URL does as well".to_owned(),
        Why::Unproven(SignatureError::UnknownKeys { .. }) => format!(
            "if you trust that key, add it to trusted-public-keys as NAME:BASE64; or sign there with one that stands in it: '{sign}'; or {trust}"
        ),
        Why::Unproven(SignatureError::Wrong { .. }) => format!(
            "find out how the path came there; to have it all the same, sign it anew with a key that stands in trusted-public-keys: '{sign}'; or {trust}"
        ),
        Why::NoSize | Why::Unproven(_) => sign_or_trust(&error.host, &error.path),
    })
}

const TRUSTING: &str = "add trusted=true to the host's URL, which accepts all that it sends";

fn signing(host: &str, path: &StorePath) -> String {
    let command = format!("nix store sign --key-file FILE --recursive {path}");
    Login::of(host).ssh(&command)
}

fn sign_or_trust(host: &str, path: &StorePath) -> String {
    let sign = signing(host, path);
    format!("sign there: '{sign}', and add the public key to trusted-public-keys; or {TRUSTING}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_itself_says_how_to_forget_a_key() {
        let login = Login::of("h");
        let ssh_output = "x\n  ssh-keygen -f '/k' -R '[h]:1'\ny";
        assert_eq!(
            forget_key(ssh_output, &login),
            "ssh-keygen -f \"/k\" -R \"[h]:1\""
        );
        assert_eq!(forget_key("x", &login), "ssh-keygen -R \"h\"");
    }
}
