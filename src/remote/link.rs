//! One channel to a program on a host, whatever it speaks.

use std::time::Duration;

use tokio::time::Instant;

use super::RemoteError;
use super::io::{Input, Output};
use super::latency::Latency;
use super::pace::{Kind, Pace, TooSlow};
use super::stderr::{MOST as MOST_STDERR, Stderr};
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
    /// Of what is being read.
    pace: Pace,
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
            pace: Pace::default(),
        }
    }

    /// What was read has come to its end; what follows has its own time.
    pub(super) fn came_whole(&mut self) {
        self.pace = Pace::default();
    }

    /// Whether the remote has ended the link (or sent what nobody asked for) while it lay idle.
    /// Does not wait.
    pub(super) fn is_gone(&mut self) -> bool {
        self.input.has_something_to_say()
            || self.output.is_closed()
            || self.stderr.is_flooded()
            || self.child.is_link_unresponsive()
    }

    /// Waits until there is more in the input's buffer than now.
    pub(super) async fn fill(
        &mut self,
        doing: &'static str,
        kind: Kind,
    ) -> Result<(), RemoteError> {
        let began = Instant::now();
        let limit = self.pace.limit(kind, self.silence);
        let filled = tokio::select! {
            biased;
            () = self.stderr.floods() => {
                return Err(RemoteError::Noise {
                    host: self.host.clone(),
                    most: MOST_STDERR,
                    stderr: self.stderr.tail(),
                });
            }
            filled = tokio::time::timeout(limit, self.input.fill()) => filled,
            process = self.child.link_unresponsive() => {
                return Err(RemoteError::LinkStopped {
                    host: self.host.clone(),
                    doing,
                    after: began.elapsed(),
                    process,
                });
            }
        };
        let TooSlow { bytes, after } = match filled {
            Ok(Ok(len @ 1..)) => match self.pace.came(len, began.elapsed(), (kind, self.silence)) {
                Ok(()) => return Ok(()),
                Err(slow) => slow,
            },
            Ok(ended) => return Err(self.ended(doing, began, ended.err()).await),
            Err(_) if limit == self.silence => {
                return Err(RemoteError::Silent {
                    host: self.host.clone(),
                    doing,
                    after: self.silence,
                    stderr: self.stderr.tail(),
                });
            }
            Err(_) => self.pace.so_far(limit),
        };
        Err(RemoteError::TooSlow {
            host: self.host.clone(),
            doing,
            bytes,
            after,
            stderr: self.stderr.tail(),
        })
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
        let link_output = self.child.link_output();
        if let Some(said) = link_output.lines().find(|line| is_dead(line)) {
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
            link_output,
            stderr,
        }
    }
}

/// `Timeout, server HOST not responding.`: ssh's words for keepalives that were not answered.
pub(super) fn is_dead(line: &str) -> bool {
    line.contains("Timeout, server") && line.contains("not responding")
}
