//! One channel to a program on a host, whatever it speaks.

mod data_channels;
mod io;
mod latency;
mod stall_detector;
mod stderr;

use std::time::Duration;

use tokio::time::Instant;

use super::{RemoteError, RemoteErrorKind};
use crate::config::host::Host;
use crate::transport::{Channel, Child};
pub(super) use data_channels::DataChannels;
pub use io::Writer;
pub(super) use io::hello;
use io::{Input, Output};
pub use latency::Latency;
pub(super) use stall_detector::ReadKind;
use stall_detector::{StallDetector, TooSlow};
pub use stderr::readable;
use stderr::{STDERR_MAX, Stderr};

/// How much longer the transport may take, so that its own, more telling timeout comes first.
pub(super) const TRANSPORT_GRACE: Duration = Duration::from_millis(250);

/// How long a program that closed its stdout may take to end.
pub(super) const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// One channel to a program on a host.
pub(super) struct Link {
    pub(super) host: String,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) stderr: Stderr,
    /// The process that holds the channel; dropped with the link.
    pub(super) child: Box<dyn Child>,
    /// How long the remote may be silent while a reply is pending.
    pub(super) silence: Duration,
    pub(super) latency: Latency,
    /// Of the reply that is being read.
    stall_detector: StallDetector,
}

impl Link {
    pub(super) fn new(host: &Host, channel: Channel, silence: Duration) -> Self {
        let host = host.to_string();
        Self {
            input: Input::new(channel.stdout),
            output: Output::new(channel.stdin),
            stderr: Stderr::new(host.clone(), channel.stderr),
            child: channel.child,
            latency: Latency::of_opening(channel.opened_in),
            host,
            silence,
            stall_detector: StallDetector::default(),
        }
    }

    /// The reply has been read to its end. The next one is timed anew.
    pub(super) fn finish_reply(&mut self) {
        self.stall_detector = StallDetector::default();
    }

    /// Whether the remote has ended the link (or sent what was not asked for) while it lay idle. Does not wait.
    pub(super) fn is_closed_by_remote(&mut self) -> bool {
        self.input.is_readable()
            || self.output.is_closed()
            || self.stderr.is_flooded()
            || self.child.is_link_unresponsive()
    }

    /// Waits until there is more in the input's buffer than now.
    pub(super) async fn fill(
        &mut self,
        doing: &'static str,
        kind: ReadKind,
    ) -> Result<(), RemoteError> {
        let began = Instant::now();
        let limit = self.stall_detector.limit(kind, self.silence);
        let filled = tokio::select! {
            biased;
            () = self.stderr.floods() => {
                return Err(self.error(RemoteErrorKind::StderrFlood(STDERR_MAX)));
            }
            filled = tokio::time::timeout(limit, self.input.fill()) => filled,
            process = self.child.link_unresponsive() => {
                let after = began.elapsed();
                let kind = RemoteErrorKind::LinkStopped { doing, after, process };
                return Err(RemoteError::new(&self.host, kind));
            }
        };
        let TooSlow { bytes, after } = match filled {
            Ok(Ok(len @ 1..)) => {
                match self
                    .stall_detector
                    .record(len, began.elapsed(), (kind, self.silence))
                {
                    Ok(()) => return Ok(()),
                    Err(slow) => slow,
                }
            }
            Ok(ended) => return Err(self.ended(doing, began, ended.err()).await),
            Err(_) if limit == self.silence => {
                let after = self.silence;
                return Err(self.error(RemoteErrorKind::Silent { doing, after }));
            }
            Err(_) => self.stall_detector.too_slow_after(limit),
        };
        Err(self.error(RemoteErrorKind::TooSlow {
            doing,
            bytes,
            after,
        }))
    }

    /// An error with what the remote wrote to stderr so far.
    pub(super) fn error(&self, kind: RemoteErrorKind) -> RemoteError {
        RemoteError::new(&self.host, kind).with_stderr(self.stderr.tail())
    }

    /// Why the link ended. It was read from since `began`.
    pub(super) async fn ended(
        &mut self,
        doing: &'static str,
        began: Instant,
        source: Option<std::io::Error>,
    ) -> RemoteError {
        let stderr = self.stderr.tail_at_end().await;
        let link_output = self.child.link_output();
        if let Some(said) = link_output.lines().find(|line| is_dead(line)) {
            let (after, said) = (began.elapsed(), said.trim().to_owned());
            return RemoteError::new(&self.host, RemoteErrorKind::LinkDead { doing, after, said });
        }
        let kind = RemoteErrorKind::Disconnected {
            doing,
            source,
            link_output,
        };
        RemoteError::new(&self.host, kind).with_stderr(stderr)
    }
}

/// `Timeout, server HOST not responding.`: ssh's words for keepalives that were not answered.
pub(super) fn is_dead(line: &str) -> bool {
    line.contains("Timeout, server") && line.contains("not responding")
}
