//! Why a host gave no answer.

mod hint;

use std::sync::Arc;
use std::time::Duration;

use crate::model::StorePath;
use crate::transport::TransportError;
use crate::wire::WireError;
use crate::wire::serve::Version;

/// What is being read at first.
pub(crate) const HANDSHAKE: &str = "the handshake";

/// Why a host gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It could not be reached or logged in to.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The serve program ended before it said its magic.
    #[error("{host}: {program:?} ended before the handshake{}{}", status_text(*.status), said(.stderr))]
    NoServer {
        /// The host.
        host: String,
        /// The program that was asked for.
        program: String,
        /// Its exit status, when it is known.
        status: Option<i32>,
        /// The end of what it wrote to stderr, or printed.
        stderr: String,
    },
    /// The account starts Nix's daemon and no serve program.
    #[error(
        "{host}: this account serves ssh-ng only: nix-daemon --stdio answers, expected nix-store --serve"
    )]
    OnlyDaemon {
        /// The host.
        host: String,
    },
    /// The login worked, but no handshake came.
    #[error("{host}: no handshake from {program:?} within {} s{}", .after.as_secs_f32(), said(.stderr))]
    HandshakeTimedOut {
        /// The host.
        host: String,
        /// The program that was asked for.
        program: String,
        /// How long was waited.
        after: Duration,
        /// The end of what it wrote to stderr, or printed.
        stderr: String,
    },
    /// It speaks no version that we speak.
    #[error(
        "{host}: its serve protocol is {}.{}, expected {} to {}",
        .theirs >> 8, .theirs & 0xff, Version::OLDEST, Version::NEWEST
    )]
    Version {
        /// The host.
        host: String,
        /// The number it gave.
        theirs: u64,
    },
    /// What came is not the protocol.
    #[error("{host}: {doing} is malformed: {source}{}", said(.stderr))]
    Protocol {
        /// The host.
        host: String,
        /// What was being read.
        doing: &'static str,
        /// What is wrong.
        source: WireError,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// A reply names a path that was not asked for.
    #[error("{host}: its reply to {request} names {path}, which was not asked for")]
    Unsolicited {
        /// The host.
        host: String,
        /// The request.
        request: &'static str,
        /// The path.
        path: StorePath,
    },
    /// The host stopped answering ssh's keepalives.
    #[error(
        "{host}: dead link: no answer to keepalives, nothing came for {:.0} s while reading {doing} ({said})",
        .after.as_secs_f32()
    )]
    LinkDead {
        /// The host.
        host: String,
        /// What was being read.
        doing: &'static str,
        /// How long nothing came.
        after: Duration,
        /// What ssh said.
        said: String,
    },
    /// The connection ended.
    #[error(
        "{host}: the connection ended while reading {doing}{}{}",
        link(.link_output),
        said(.stderr)
    )]
    Disconnected {
        /// The host.
        host: String,
        /// What was being read.
        doing: &'static str,
        /// The system's reason, when there is one.
        source: Option<std::io::Error>,
        /// What ssh said about the link, where it said something.
        link_output: String,
        /// The end of what the remote wrote to stderr.
        stderr: String,
    },
    /// The files of a path, read one by one, have other lengths than they were listed with, or are
    /// gone. No fault of the link: the host can still be asked for the whole path.
    #[error("{host}: {path} changed while it was read: {what}{}", said(.stderr))]
    NotAsListed {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
        /// What came instead.
        what: &'static str,
        /// The end of what the remote wrote to stderr.
        stderr: String,
    },
    /// What it compressed with `zstd` cannot be decompressed, or its `zstd` failed. It can still be asked for the same
    /// uncompressed.
    #[error("{host}: cannot be asked for compressed files: {what}{}", said(.stderr))]
    BadFrame {
        /// The host.
        host: String,
        /// What came instead.
        what: &'static str,
        /// The end of what the remote wrote to stderr.
        stderr: String,
    },
    /// It lacks what it was asked for, and its program ended, since the protocol cannot say so.
    #[error("{host}: lacks {path}{}", said(.stderr))]
    Absent {
        /// The host.
        host: String,
        /// The path.
        path: StorePath,
        /// The end of what the remote wrote to stderr.
        stderr: String,
    },
    /// It was not asked: it failed a moment ago, for this process or an earlier one.
    #[error("{host}: not tried, it failed a moment ago (left alone since {} s)", .since.as_secs())]
    Resting {
        /// The host.
        host: String,
        /// How long ago it failed last.
        since: Duration,
        /// How it failed, where that was seen by this process.
        #[source]
        why: Option<Arc<RemoteError>>,
    },
    /// All channels to it are in use, and none came back in time.
    #[error("{host}: all its {channels} channels are in use, and none was free within {} s", .after.as_secs_f32())]
    Busy {
        /// The host.
        host: String,
        /// How many there are.
        channels: usize,
        /// How long was waited.
        after: Duration,
    },
    /// The process on this machine that holds the connection does not answer: it may be stopped.
    #[error("{host}: {process} on this machine does not answer, nothing came for {:.0} s while reading {doing}", .after.as_secs_f32())]
    LinkStopped {
        /// The host.
        host: String,
        /// What was being read.
        doing: &'static str,
        /// How long nothing came.
        after: Duration,
        /// The process.
        process: String,
    },
    /// Nothing came for too long.
    #[error("{host}: silent for {} s while reading {doing}{}", .after.as_secs_f32(), said(.stderr))]
    Silent {
        /// The host.
        host: String,
        /// What was being read.
        doing: &'static str,
        /// How long nothing came.
        after: Duration,
        /// The end of what the remote wrote to stderr.
        stderr: String,
    },
    /// It sent something, but too slowly.
    #[error(
        "{host}: too slow: {bytes} bytes in {:.0} s while reading {doing}{}",
        .after.as_secs_f32(), said(.stderr)
    )]
    TooSlow {
        /// The host.
        host: String,
        /// What was being read.
        doing: &'static str,
        /// What came of it in that time.
        bytes: u64,
        /// How long it was waited for.
        after: Duration,
        /// The end of what the remote wrote to stderr.
        stderr: String,
    },
    /// It writes to stderr without end.
    #[error("{host}: expected at most {most} bytes on its stderr, got more{}", said(.stderr))]
    StderrFlood {
        /// The host.
        host: String,
        /// How much is read, in bytes.
        most: u64,
        /// The end of it.
        stderr: String,
    },
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
    /// The host as configured.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Transport(error) => error.host(),
            Self::NoServer { host, .. }
            | Self::OnlyDaemon { host }
            | Self::HandshakeTimedOut { host, .. }
            | Self::Version { host, .. }
            | Self::Protocol { host, .. }
            | Self::Unsolicited { host, .. }
            | Self::LinkDead { host, .. }
            | Self::Disconnected { host, .. }
            | Self::NotAsListed { host, .. }
            | Self::BadFrame { host, .. }
            | Self::Absent { host, .. }
            | Self::Resting { host, .. }
            | Self::Busy { host, .. }
            | Self::LinkStopped { host, .. }
            | Self::TooSlow { host, .. }
            | Self::StderrFlood { host, .. }
            | Self::Silent { host, .. } => Some(host),
        }
    }

    /// Whether the host was reached and let nobody in with the keys and the agent that were tried.
    #[must_use]
    pub fn is_login_refused(&self) -> bool {
        match self {
            Self::Transport(error) => matches!(
                error,
                TransportError::PermissionDenied { .. } | TransportError::AgentUnusable { .. }
            ),
            Self::Resting { why: Some(why), .. } => why.is_login_refused(),
            _ => false,
        }
    }

    /// Whether the remote was silent or slow for as long as `stalled-download-timeout` allows.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::TooSlow { .. })
    }

    /// The end of what the remote wrote to stderr; empty when it wrote nothing or was not reached.
    #[must_use]
    pub fn stderr(&self) -> &str {
        match self {
            Self::NoServer { stderr, .. }
            | Self::HandshakeTimedOut { stderr, .. }
            | Self::Protocol { stderr, .. }
            | Self::Disconnected { stderr, .. }
            | Self::NotAsListed { stderr, .. }
            | Self::BadFrame { stderr, .. }
            | Self::Absent { stderr, .. }
            | Self::TooSlow { stderr, .. }
            | Self::StderrFlood { stderr, .. }
            | Self::Silent { stderr, .. } => stderr,
            Self::Transport(_)
            | Self::OnlyDaemon { .. }
            | Self::Version { .. }
            | Self::Unsolicited { .. }
            | Self::Resting { .. }
            | Self::Busy { .. }
            | Self::LinkStopped { .. }
            | Self::LinkDead { .. } => "",
        }
    }
}
