//! What a failed exchange says of the host: decided here, for questions, transfers and shells alike.
//!
//! | verdict | what follows |
//! | --- | --- |
//! | [`Refused`](Verdict::Refused) | the host is well; there are fewer channels for a while |
//! | [`Absent`](Verdict::Absent) | the host is well, and lacks that path |
//! | [`Unreadable`](Verdict::Unreadable) | that path is left out; a host that sends nothing else has failed |
//! | [`NotAsked`](Verdict::NotAsked) | nothing: the host was not asked |
//! | [`Local`](Verdict::Local) | nothing for other processes: this machine is at fault |
//! | [`Failed`](Verdict::Failed) | the host is left alone for a while |

use super::{HANDSHAKE, RemoteError, RemoteErrorKind as Kind};
use crate::model::StorePath;
use crate::transport::{TransportError, TransportErrorKind};

/// What a failed exchange says of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It lets us in, but opens no further channel (sshd's `MaxSessions`), or no further connection.
    /// [`TransportErrorKind::SessionRefused`] of a host that has not given a single channel is a failure.
    Refused,
    /// It has not (any more) what it was asked about, or not as it was.
    Absent,
    /// What came in reply cannot be read.
    Unreadable,
    /// It was not asked: it rests, its login is held back, or no channel is free.
    NotAsked,
    /// This machine failed: no ssh, no folder for its sockets, an ssh process that is stopped.
    Local,
    /// It failed.
    Failed,
}

impl RemoteError {
    /// What this says of the host.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match &self.kind {
            Kind::Transport(error) => of_transport(error),
            Kind::Absent(_) | Kind::NotAsListed { .. } => Verdict::Absent,
            Kind::Resting { .. } | Kind::Busy { .. } => Verdict::NotAsked,
            Kind::LinkStopped { .. } => Verdict::Local,
            Kind::Protocol { doing, .. } if *doing != HANDSHAKE => Verdict::Unreadable,
            Kind::Unsolicited { .. } | Kind::BadFrame(_) => Verdict::Unreadable,
            Kind::Protocol { .. }
            | Kind::NoServer { .. }
            | Kind::HandshakeTimedOut { .. }
            | Kind::Version(_)
            | Kind::OnlyDaemon
            | Kind::LinkDead { .. }
            | Kind::Disconnected { .. }
            | Kind::Silent { .. }
            | Kind::TooSlow { .. }
            | Kind::StderrFlood(_) => Verdict::Failed,
        }
    }

    /// The same error, or [`RemoteErrorKind::Absent`](Kind::Absent) when the remote ended since it lacks one of these
    /// paths, which it was asked about.
    ///
    /// `nix-store --serve` (1.7 to 2.35) ends when it is asked for the NAR or the closure of a path
    /// that it has not, with `path '…' is not valid` on its stderr, or with the system's word about
    /// the file.
    #[must_use]
    pub fn or_absent(self, asked: &[StorePath]) -> Self {
        // The end of the process, and its stderr, come by ways of their own: one may be held up.
        let (Kind::Disconnected { .. } | Kind::Silent { .. }) = self.kind else {
            return self;
        };
        let stderr = &self.stderr;
        let of_it = |path: &&StorePath| {
            let mut lines = stderr.lines();
            lines.any(|line| {
                let is_named = line.contains("error:") && line.contains(path.base_name());
                is_named
                    && MISSING_PATH_MESSAGES
                        .iter()
                        .any(|words| line.contains(words))
            })
        };
        let named = asked.iter().find(of_it);
        let is_invalid = stderr.contains("is not valid");
        match named.or(asked.first().filter(|_| is_invalid)) {
            Some(path) => Self {
                kind: Kind::Absent(path.clone()),
                ..self
            },
            None => self,
        }
    }
}

/// What nix-store prints about a path that is not valid (any more), or whose files are gone.
const MISSING_PATH_MESSAGES: [&str; 4] = [
    // 1.x to 2.33: `path 'P' is not valid`.
    "is not valid",
    // From 2.34 on.
    "is not a valid store path",
    // 1.x to 2.18: `getting status of 'P': No such file or directory`.
    "No such file",
    // From 2.19 on: `path 'P' does not exist`; 2.34 has a slash behind P.
    "does not exist",
];

fn of_transport(error: &TransportError) -> Verdict {
    match error.kind {
        TransportErrorKind::SessionRefused | TransportErrorKind::NoFurtherSession => {
            Verdict::Refused
        }
        TransportErrorKind::LoginHeldBack { .. } => Verdict::NotAsked,
        _ if error.is_local() => Verdict::Local,
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_ends_for_a_missing_path_has_not_failed() {
        let base = "7rjj86a15146cq1d3qy068lml7n7ykzm-gone";
        let path = StorePath::parse(&format!("/nix/store/{base}")).unwrap();
        let verdict = |stderr: String| {
            let ended = Kind::Disconnected {
                doing: "a NAR",
                source: None,
                link_output: String::new(),
            };
            let silent = Kind::Silent {
                doing: "a NAR",
                after: std::time::Duration::from_secs(10),
            };
            let [ended, silent] = [ended, silent].map(|kind| {
                let error = RemoteError::new("h", kind).with_stderr(stderr.clone());
                error.or_absent(std::slice::from_ref(&path)).verdict()
            });
            assert_eq!(ended, silent, "what it printed counts: {stderr}");
            ended
        };
        for stderr in [
            format!("error: path '/nix/store/{base}' is not valid\n"),
            format!("error: getting status of '/nix/store/{base}': No such file or directory\n"),
        ] {
            assert_eq!(verdict(stderr), Verdict::Absent);
        }
        for stderr in [
            "",
            "error: opening '/nix/var/nix/db': No such file or directory",
        ] {
            assert_eq!(verdict(stderr.to_owned()), Verdict::Failed, "{stderr}");
        }
    }
}
