//! Why a host gave no answer.

mod hint;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::StorePath;
use crate::transport::{TransportError, TransportErrorKind};
use crate::wire::WireError;
use crate::wire::serve::Version;

/// What is being read at first.
pub(crate) const HANDSHAKE: &str = "the handshake";

/// Why a host gave no answer.
#[derive(Debug)]
pub struct RemoteError {
    /// The host as configured; `None` when the trouble is this machine's alone.
    pub host: Option<String>,
    /// What happened.
    pub kind: RemoteErrorKind,
    /// The end of what the remote wrote to stderr (or printed in place of a handshake). Empty when it wrote nothing or
    /// was not reached.
    pub stderr: String,
}

/// What happened instead of an answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteErrorKind {
    /// It could not be reached or logged in to.
    #[error(transparent)]
    Transport(Box<TransportError>),
    /// The serve program ended before it said its magic.
    #[error("{program:?} ended before the handshake{}", status_text(*.status))]
    NoServer {
        /// The program that was asked for.
        program: String,
        /// Its exit status, when it is known.
        status: Option<i32>,
    },
    /// The account starts Nix's daemon and no serve program.
    #[error(
        "this account serves ssh-ng only: nix-daemon --stdio answers, expected nix-store --serve"
    )]
    OnlyDaemon,
    /// The login worked, but no handshake came.
    #[error("no handshake from {program:?} within {} s", .after.as_secs_f32())]
    HandshakeTimedOut {
        /// The program that was asked for.
        program: String,
        /// How long was waited.
        after: Duration,
    },
    /// It speaks no version that we speak.
    #[error(
        "its serve protocol is {}.{}, expected {} to {}",
        .0 >> 8, .0 & 0xff, Version::OLDEST, Version::NEWEST
    )]
    Version(u64),
    /// What came is not the protocol.
    #[error("{doing} is malformed: {source}")]
    Protocol {
        /// What was being read.
        doing: &'static str,
        /// What is wrong.
        source: WireError,
    },
    /// A reply names a path that was not asked for.
    #[error("its reply to {request} names {path}, which was not asked for")]
    Unsolicited {
        /// The request.
        request: &'static str,
        /// The path.
        path: StorePath,
    },
    /// The host stopped answering ssh's keepalives.
    #[error(
        "dead link: no answer to keepalives, nothing came for {:.0} s while reading {doing} ({said})",
        .after.as_secs_f32()
    )]
    LinkDead {
        /// What was being read.
        doing: &'static str,
        /// How long nothing came.
        after: Duration,
        /// What ssh said.
        said: String,
    },
    /// The connection ended.
    #[error("the connection ended while reading {doing}{}", link(.link_output))]
    Disconnected {
        /// What was being read.
        doing: &'static str,
        /// The system's reason, when there is one.
        source: Option<std::io::Error>,
        /// What ssh said about the link, where it said something.
        link_output: String,
    },
    /// The files of a path, read one by one, have other lengths than they were listed with, or are
    /// gone. No fault of the link: the host can still be asked for the whole path.
    #[error("{path} changed while it was read: {what}")]
    NotAsListed {
        /// The path.
        path: StorePath,
        /// What came instead.
        what: &'static str,
    },
    /// What it compressed with `zstd` cannot be decompressed, or its `zstd` failed. It can still be asked for the same
    /// uncompressed.
    #[error("cannot be asked for compressed files: {0}")]
    BadFrame(&'static str),
    /// It lacks what it was asked for, and its program ended, since the protocol cannot say so.
    #[error("lacks {0}")]
    Absent(StorePath),
    /// It was not asked: it failed a moment ago, for this process or an earlier one.
    #[error("not tried, it failed a moment ago (left alone since {} s)", .since.as_secs())]
    Resting {
        /// How long ago it failed last.
        since: Duration,
        /// How it failed, where that was seen by this process.
        #[source]
        why: Option<Arc<RemoteError>>,
    },
    /// All channels to it are in use, and none came back in time.
    #[error("all its {channels} channels are in use, and none was free within {} s", .after.as_secs_f32())]
    Busy {
        /// How many there are.
        channels: usize,
        /// How long was waited.
        after: Duration,
    },
    /// The process on this machine that holds the connection does not answer: it may be stopped.
    #[error("{process} on this machine does not answer, nothing came for {:.0} s while reading {doing}", .after.as_secs_f32())]
    LinkStopped {
        /// What was being read.
        doing: &'static str,
        /// How long nothing came.
        after: Duration,
        /// The process.
        process: String,
    },
    /// Nothing came for too long.
    #[error("silent for {} s while reading {doing}", .after.as_secs_f32())]
    Silent {
        /// What was being read.
        doing: &'static str,
        /// How long nothing came.
        after: Duration,
    },
    /// It sent something, but too slowly.
    #[error("too slow: {bytes} bytes in {:.0} s while reading {doing}", .after.as_secs_f32())]
    TooSlow {
        /// What was being read.
        doing: &'static str,
        /// What came of it in that time.
        bytes: u64,
        /// How long it was waited for.
        after: Duration,
    },
    /// It writes to stderr without end.
    #[error("expected at most {0} bytes on its stderr, got more")]
    StderrFlood(u64),
}

fn status_text(status: Option<i32>) -> String {
    status.map_or(String::new(), |status| {
        format!(" with exit status {status}")
    })
}

/// The last line of what the remote said, where it said something.
fn said(stderr: &str) -> String {
    match last_line(stderr) {
        "" => String::new(),
        line => format!("; it said: {}", short(line)),
    }
}

/// The last line of what ssh said, where it said something.
fn link(said: &str) -> String {
    match last_line(said) {
        "" => String::new(),
        line => format!("; ssh said: {}", short(line)),
    }
}

/// How much of a remote's words a message quotes, in characters.
const QUOTE_MAX: usize = 300;

fn short(line: &str) -> String {
    let mut chars = line.chars();
    let mut text: String = chars.by_ref().take(QUOTE_MAX).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

pub(super) fn last_line(text: &str) -> &str {
    text.trim().lines().next_back().unwrap_or("").trim()
}

impl RemoteError {
    /// A failure of this host that left nothing on stderr.
    #[must_use]
    pub fn new(host: impl fmt::Display, kind: RemoteErrorKind) -> Self {
        Self {
            host: Some(host.to_string()),
            kind,
            stderr: String::new(),
        }
    }

    /// The same with the end of what the remote wrote to stderr.
    #[must_use]
    pub fn with_stderr(self, stderr: String) -> Self {
        Self { stderr, ..self }
    }

    /// Whether the host was reached and let nobody in with the keys and the agent that were tried.
    #[must_use]
    pub fn is_login_refused(&self) -> bool {
        match &self.kind {
            RemoteErrorKind::Transport(error) => matches!(
                error.kind,
                TransportErrorKind::PermissionDenied { .. }
                    | TransportErrorKind::AgentUnusable { .. }
            ),
            RemoteErrorKind::Resting { why: Some(why), .. } => why.is_login_refused(),
            _ => false,
        }
    }

    /// Whether the remote was silent or slow for as long as `stalled-download-timeout` allows.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(
            self.kind,
            RemoteErrorKind::Silent { .. } | RemoteErrorKind::TooSlow { .. }
        )
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kind, &self.host) {
            // It names the host itself.
            (RemoteErrorKind::Transport(error), _) => return error.fmt(f),
            (kind, Some(host)) => write!(f, "{host}: {kind}")?,
            (kind, None) => kind.fmt(f)?,
        }
        f.write_str(&said(&self.stderr))
    }
}

impl Error for RemoteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

impl From<TransportError> for RemoteError {
    fn from(error: TransportError) -> Self {
        Self {
            host: error.host.clone(),
            kind: RemoteErrorKind::Transport(Box::new(error)),
            stderr: String::new(),
        }
    }
}
