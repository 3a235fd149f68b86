//! What to do about a host that could not be reached.

use super::{Phase, TransportError, TransportErrorKind as Kind};
use crate::config::host::SshTarget;
use crate::hint::Hint;

impl Hint for TransportError {
    fn hint(&self) -> Option<String> {
        let target = SshTarget::of(self.host.as_deref().unwrap_or_default());
        Some(match &self.kind {
            Kind::HostNameUnknown(name) => format!(
                "check the spelling in ssh-substituter-hosts, or give {name} a HostName in ~/.ssh/config"
            ),
            Kind::Refused => format!(
                "check that sshd runs there and listens at this port: '{}'; another port is written ssh://HOST:PORT",
                target.ssh("true")
            ),
            Kind::Unreachable => format!(
                "check the network, the VPN or ProxyJump in ~/.ssh/config: '{}'",
                target.ssh("true")
            ),
            Kind::TimedOut {
                phase: Phase::Queue,
                ..
            } => "the other process is held up by the host as well; raise connect-timeout if the host is only slow".to_owned(),
            Kind::TimedOut { .. } => format!(
                "see where it hangs with '{}'; if the host is only slow, raise connect-timeout",
                target.verbose_ssh()
            ),
            Kind::HostKeyUnknown => format!(
                "log in once as the user who runs this (root for the daemon) with '{}', or set base64-ssh-public-host-key in the host's URL",
                target.ssh("true")
            ),
            Kind::HostKeyChanged { pinned: true } => format!(
                "find out why; if the change is right, put the new key ('{}' shows it) into base64-ssh-public-host-key in the host's URL",
                target.keyscan()
            ),
            Kind::HostKeyChanged { pinned: false } => format!(
                "find out why; if the change is right, forget the old key with '{}'",
                forget_key(&self.ssh_output, &target)
            ),
            Kind::PermissionDenied { identity, .. } => {
                let copy = target.copy_id(identity.as_deref());
                match (key_trouble(&self.ssh_output), identity) {
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
            Kind::AgentUnusable { socket, .. } => format!(
                "let ssh-auth-sock name an agent that the user who runs this (root for the daemon) can use ('SSH_AUTH_SOCK={} ssh-add -l' asks it), or name a key with ssh-key=/path in the host's URL",
                shell_words::quote(&socket.to_string_lossy())
            ),
            Kind::Disconnected => format!(
                "the host may limit connections (MaxStartups, PerSourcePenalties or a firewall) or close at log-in: its sshd log tells; try '{}'",
                target.ssh("true")
            ),
            Kind::SessionRefused | Kind::NoFurtherSession => {
                "the host allows no (further) sessions: see MaxSessions in its sshd_config".to_owned()
            }
            Kind::NoUser(uid) => format!(
                "add a line such as 'ci:x:{uid}:{}::/tmp:/bin/sh' to /etc/passwd; or set LD_PRELOAD=libnss_wrapper.so (of nss_wrapper) with NSS_WRAPPER_PASSWD and NSS_WRAPPER_GROUP naming files of one's own, which ssh gets too",
                rustix::process::getgid().as_raw()
            ),
            Kind::LoginHeldBack { .. } => format!(
                "sshd's PerSourcePenalties or a firewall's limit lock out who is refused too often: fix the hosts at this address that are refused, see '{}'",
                target.verbose_ssh()
            ),
            Kind::SshMissing { .. } => "install OpenSSH's client".to_owned(),
            Kind::BadCommand(_) => {
                "remote-program and remote-store may hold no quotes, backslashes or exclamation marks"
                    .to_owned()
            }
            Kind::RuntimeDir(error) => return error.hint(),
            Kind::Other(_) => {
                format!("'{}' may tell more", target.verbose_ssh())
            }
            Kind::Local { .. } => return None,
        })
    }

    fn remote_output(&self) -> Option<&str> {
        Some(&*self.ssh_output).filter(|output| !output.is_empty())
    }
}

/// ssh's own advice names the file; without it the usual one is meant.
fn forget_key(ssh_output: &str, target: &SshTarget<'_>) -> String {
    let advice = ssh_output.lines().map(str::trim);
    let mut advice = advice.filter(|line| line.starts_with("ssh-keygen -f "));
    match advice.next_back() {
        Some(command) => command.replace('\'', "\""),
        None => format!("ssh-keygen -R \"{}\"", target.known_as()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_itself_says_how_to_forget_a_key() {
        let target = SshTarget::of("h");
        let ssh_output = "x\n  ssh-keygen -f '/k' -R '[h]:1'\ny";
        assert_eq!(
            forget_key(ssh_output, &target),
            "ssh-keygen -f \"/k\" -R \"[h]:1\""
        );
        assert_eq!(forget_key("x", &target), "ssh-keygen -R \"h\"");
    }
}
