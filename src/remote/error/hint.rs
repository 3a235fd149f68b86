//! What to do about a host that gave no answer.

use super::{RemoteError, RemoteErrorKind as Kind};
use crate::config::host::SshTarget;
use crate::hint::Hint;
use crate::remote::HANDSHAKE;

impl Hint for RemoteError {
    fn hint(&self) -> Option<String> {
        let target = SshTarget::of(self.host.as_deref().unwrap_or_default());
        let said = self.stderr.to_lowercase();
        Some(match &self.kind {
            Kind::NoServer { status: Some(127), .. } => no_nix(&target),
            Kind::NoServer { .. } if said.contains("not found") => no_nix(&target),
            _ if said.contains("is not in the nix store") => format!(
                "the store there is in another folder than the paths that are asked for: see NIX_STORE_DIR in '{}', or name the right store with remote-store in the host's URL",
                target.ssh("env")
            ),
            _ if said.contains("permission denied")
                || said.contains("operation not permitted")
                || said.contains("read-only")
                || said.contains("unable to open database") =>
            {
                "the account there may not read the Nix store or its database: log in as a user who may, or set remote-store=daemon in the host's URL".to_owned()
            }
            Kind::NoServer { program, .. } => format!(
                "run it by hand: '{}'; a ForceCommand there must run nix-store --serve, and an account that allows certain commands only must allow exactly '{program} --serve' or '{program} --serve --write', which were both tried",
                target.ssh(&format!("{program} --serve"))
            ),
            Kind::OnlyDaemon => "put nix-store --serve in place of nix-daemon --stdio: as command=\"nix-store --serve\" before the key in authorized_keys there, as ForceCommand in its sshd_config, or on NixOS with nix.sshServe.protocol = \"ssh\"; or log in with a key or as a user for whom it stands there".to_owned(),
            Kind::HandshakeTimedOut { program, .. } => format!(
                "the login worked: look for a shell start-up file or wrapper there that waits with '{}', or raise connect-timeout",
                target.ssh(&format!("{program} --serve"))
            ),
            Kind::Version(_) => format!(
                "update Nix there: 1.8 is the oldest that is understood, '{}' tells which it is",
                target.ssh("nix-store --version")
            ),
            Kind::Protocol { doing, .. } if *doing == HANDSHAKE => format!(
                "what answers there is not nix-store --serve: see remote-program in the host's URL; and '{}' must print nothing",
                target.ssh("true")
            ),
            Kind::Protocol { .. } => format!(
                "the program there is broken, or it is not nix-store: see remote-program in the host's URL and '{}'",
                target.ssh("nix-store --version")
            ),
            Kind::Unsolicited { .. } => {
                "what answers there is not nix-store: take the host out of ssh-substituter-hosts until that is fixed".to_owned()
            }
            Kind::LinkDead { .. } => format!(
                "the host or the network on the way is down: try '{}'; for links that pause and come back, raise dead-link-timeout",
                target.ssh("true")
            ),
            Kind::Disconnected { .. } => format!(
                "the program or sshd there ended it, or the network did: their logs tell; try '{}'",
                target.ssh("true")
            ),
            Kind::Silent { .. } => format!(
                "the link was not found dead, so the host is likely busy or its nix-store hangs: look there with '{}', or raise stalled-download-timeout",
                target.ssh("ps -C nix-store -l")
            ),
            Kind::TooSlow { .. } => format!(
                "the host is overloaded, its link is nearly dead, or it keeps others waiting on purpose: look there with '{}', or raise stalled-download-timeout",
                target.ssh("uptime")
            ),
            Kind::StderrFlood(_) => format!(
                "something there writes without end: '{}' must print nothing",
                target.ssh("true")
            ),
            Kind::NotAsListed { path, .. } => format!(
                "it was collected or replaced there meanwhile: '{}' tells",
                target.ssh(&format!("nix-store --verify-path {path}"))
            ),
            Kind::BadFrame(_) => format!(
                "its files come uncompressed now: '{}' shows what is wrong with its zstd, and compression=none in the host's URL does without",
                target.ssh("zstd -q -3 < /etc/passwd | zstd -t")
            ),
            Kind::Busy { .. } => {
                "others use them: wait, or raise max-connections in the host's URL".to_owned()
            }
            Kind::LinkStopped { .. } => {
                "it was stopped, or hangs; another one is started in its place".to_owned()
            }
            Kind::Transport(error) => return error.hint(),
            // The cause of its failure has the hint.
            Kind::Resting { why, .. } => return why.as_ref()?.hint(),
            Kind::Absent(_) => return None,
        })
    }

    fn remote_output(&self) -> Option<&str> {
        match &self.kind {
            Kind::Transport(error) => error.remote_output(),
            Kind::Resting { why, .. } => why.as_ref()?.remote_output(),
            _ => Some(&*self.stderr).filter(|output| !output.is_empty()),
        }
    }
}

fn no_nix(target: &SshTarget<'_>) -> String {
    format!(
        "install Nix there, or name the program with remote-program=/path/to/nix-store in the host's URL; '{}' shows where it is looked for",
        target.ssh("env")
    )
}
