//! One channel to a program on a host, whatever it speaks.

use std::time::{Duration, Instant};

use super::RemoteError;
use super::io::{Input, Output};
use super::latency::Latency;
use super::stderr::Stderr;
use crate::config::host::Host;
use crate::transport::{Channel, Child};

pub(super) struct Link {
    pub(super) host: String,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) stderr: Stderr,
    /// The program at the other end; goes with the link.
    pub(super) child: Box<dyn Child>,
    /// How long the remote may be silent while something is owed.
    pub(super) silence: Duration,
    pub(super) latency: Latency,
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
        }
    }

    /// Whether the remote has ended the link (or sent what nobody asked for) while it lay idle.
    /// Does not wait.
    pub(super) fn is_gone(&mut self) -> bool {
        self.input.has_something_to_say() || self.output.is_closed()
    }

    /// Waits until there is more in the input's buffer than now.
    pub(super) async fn fill(&mut self, doing: &'static str) -> Result<(), RemoteError> {
        let began = Instant::now();
        match tokio::time::timeout(self.silence, self.input.fill()).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(ended) => Err(self.ended(doing, began, ended.err()).await),
            Err(_) => Err(RemoteError::Silent {
                host: self.host.clone(),
                doing,
                after: self.silence,
                stderr: self.stderr.tail(),
            }),
        }
    }

    /// Why the link ended, which was read from since `began`.
    pub(super) async fn ended(
        &mut self,
        doing: &'static str,
        began: Instant,
        source: Option<std::io::Error>,
    ) -> RemoteError {
        let stderr = self.stderr.tail_at_end().await;
        let host = self.host.clone();
        let link_said = self.child.link_said();
        if let Some(said) = link_said.lines().find(|line| is_dead(line)) {
            return RemoteError::LinkDead {
                host,
                doing,
                after: began.elapsed(),
                said: said.trim().to_owned(),
            };
        }
        RemoteError::Disconnected {
            host,
            doing,
            source,
            link_said,
            stderr,
        }
    }
}

/// `Timeout, server HOST not responding.`: ssh's words for keepalives that were not answered.
pub(super) fn is_dead(line: &str) -> bool {
    line.contains("Timeout, server") && line.contains("not responding")
}
