//! Opens a session on a master, which is started or replaced when needed.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::openssh::{Error as MuxError, Session, Stdio};
use tokio::time::{Instant, timeout_at};

use super::Master;
use super::liveness::{LivenessProbe, LivenessProbes, PROBE_WHILE_OPENING_AFTER};
use crate::config::host::Host;
use crate::transport::openssh::login::LoginKind;
use crate::transport::openssh::ssh::master_log;
use crate::transport::{Phase, TransportError, TransportErrorKind};

pub(in crate::transport::openssh) type MuxedChild = ::openssh::Child<Arc<Session>>;

pub(in crate::transport::openssh) enum OpenOutcome {
    Session(Box<MuxedChild>, Duration, Option<Arc<LivenessProbe>>),
    Refused { fresh: bool, ssh_output: String },
}

/// Whether the error is about logging in to the host, and not about this machine.
pub(in crate::transport::openssh) fn is_login_failure(error: &TransportError) -> bool {
    !error.is_local() || matches!(error.kind, TransportErrorKind::NoUser(_))
}

/// A session that is to be opened.
pub(in crate::transport::openssh) struct SessionRequest<'a> {
    pub(in crate::transport::openssh) host: &'a Host,
    /// The command.
    pub(in crate::transport::openssh) line: &'a str,
    /// The kind of login that starting a master would be.
    pub(in crate::transport::openssh) login: LoginKind,
    /// How long a master that was running already may take: its connection may be dead (after a laptop slept),
    /// and there must be time left for a new one.
    pub(in crate::transport::openssh) reuse_timeout: Duration,
    pub(in crate::transport::openssh) deadline: Instant,
}

impl SessionRequest<'_> {
    /// Opens the session on that master, which is started or replaced when needed.
    pub(in crate::transport::openssh) async fn open_on(
        &self,
        master: &Master<'_>,
        probes: &LivenessProbes,
    ) -> Result<OpenOutcome, TransportError> {
        let mut fresh = false;
        let mut retired = false;
        // A master may end between two steps (it was idle, or was killed), but hardly four times in a row.
        for _ in 0..4 {
            let seen = master.socket_id();
            if seen.is_none() {
                fresh |= master.ensure(self.login).await?;
            }
            let until = if fresh || retired {
                self.deadline
            } else {
                self.deadline.min(Instant::now() + self.reuse_timeout)
            };
            let (socket, probe) = (master.socket(), probes.of(master).await);
            let began = Instant::now();
            let opened = tokio::select! {
                biased;
                opened = timeout_at(until, spawn(&socket, self.line)) => opened.ok(),
                () = until_unresponsive(probe.as_ref()) => None,
            };
            match opened {
                Some(Ok(child)) => {
                    return Ok(OpenOutcome::Session(
                        Box::new(child),
                        began.elapsed(),
                        probe,
                    ));
                }
                Some(Err(error)) => match MuxFailure::of(&error) {
                    MuxFailure::Gone => fresh |= master.ensure(self.login).await?,
                    MuxFailure::Refused(ssh_output) => {
                        return Ok(OpenOutcome::Refused { fresh, ssh_output });
                    }
                    MuxFailure::Local(source) => {
                        return Err(TransportError::local(self.host, "make pipes", source));
                    }
                },
                None if probe.is_some_and(|probe| probe.is_unresponsive()) => {
                    log::debug!("{}: an ssh master does not respond", self.host);
                    master.abandon(seen).await?;
                    retired = true;
                }
                None => {
                    master.retire(seen).await?;
                    if fresh || retired || Instant::now() >= self.deadline {
                        return Err(master.timed_out(Phase::Session));
                    }
                    retired = true;
                }
            }
        }
        let error = TransportError::new(self.host, TransportErrorKind::Disconnected);
        Err(error.with_output(master_log::read(&master.log())))
    }
}

/// Waits until a master that is opening a session leaves a probe unanswered.
async fn until_unresponsive(probe: Option<&Arc<LivenessProbe>>) {
    match probe {
        Some(probe) => probe.until_unresponsive(PROBE_WHILE_OPENING_AFTER).await,
        None => std::future::pending().await,
    }
}

async fn spawn(socket: &Path, line: &str) -> Result<MuxedChild, MuxError> {
    Arc::new(Session::resume_mux(socket.into(), None))
        .arc_raw_command(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .await
}

/// Why a master started no session.
enum MuxFailure {
    /// There is none, or it ended before it answered.
    Gone,
    /// The host refused: mostly because of its `MaxSessions`.
    Refused(String),
    /// This machine failed, not the master.
    Local(io::Error),
}

impl MuxFailure {
    fn of(error: &MuxError) -> Self {
        match error {
            MuxError::SshMux(mux) => {
                let broke_off = mux.source().is_some_and(|source| source.is::<io::Error>());
                if broke_off {
                    Self::Gone
                } else {
                    Self::Refused(mux.to_string())
                }
            }
            MuxError::ChildIo(error) => Self::Local(
                error
                    .raw_os_error()
                    .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error),
            ),
            _ => Self::Gone,
        }
    }
}
