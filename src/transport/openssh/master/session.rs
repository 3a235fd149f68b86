//! One session on one master, which is started or replaced when it must be.

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
use crate::transport::{Phase, TransportError};

pub(in crate::transport::openssh) type MuxedChild = ::openssh::Child<Arc<Session>>;

pub(in crate::transport::openssh) enum Opened {
    Yes(Box<MuxedChild>, Duration, Option<Arc<LivenessProbe>>),
    Refused { fresh: bool, said: String },
}

/// Whether a login failed so, or was not tried. What this machine lacks is another matter.
pub(in crate::transport::openssh) fn is_of_login(error: &TransportError) -> bool {
    !matches!(
        error,
        TransportError::SshMissing { .. }
            | TransportError::RuntimeDir(_)
            | TransportError::Local { .. }
            | TransportError::BadCommand { .. }
    )
}

/// A session is wanted.
pub(in crate::transport::openssh) struct Wish<'a> {
    pub(in crate::transport::openssh) host: &'a Host,
    /// The command.
    pub(in crate::transport::openssh) line: &'a str,
    /// What it is when a master has to be started.
    pub(in crate::transport::openssh) login: LoginKind,
    /// For a session on a master that was there already: its connection may be dead (a laptop that
    /// slept), and there should be time left for a new one.
    pub(in crate::transport::openssh) patience: Duration,
    pub(in crate::transport::openssh) deadline: Instant,
}

impl Wish<'_> {
    /// Opens a session on that master, which is started or replaced when it must be.
    pub(in crate::transport::openssh) async fn open_on(
        &self,
        master: &Master<'_>,
        probes: &LivenessProbes,
    ) -> Result<Opened, TransportError> {
        let mut fresh = false;
        let mut retired = false;
        // A master may go away between two steps (idle, or ended by someone), but not every time.
        for _ in 0..4 {
            let seen = master.socket_id();
            if seen.is_none() {
                fresh |= master.ensure(self.login).await?;
            }
            let until = if fresh || retired {
                self.deadline
            } else {
                self.deadline.min(Instant::now() + self.patience)
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
                    return Ok(Opened::Yes(Box::new(child), began.elapsed(), probe));
                }
                Some(Err(error)) => match Failure::of(&error) {
                    Failure::Gone => fresh |= master.ensure(self.login).await?,
                    Failure::Refused(said) => return Ok(Opened::Refused { fresh, said }),
                    Failure::Local(source) => {
                        let action = "make pipes";
                        return Err(TransportError::Local {
                            host: self.host.to_string(),
                            action,
                            source,
                        });
                    }
                },
                None if probe.is_some_and(|probe| probe.is_unresponsive()) => {
                    log::debug!("{}: an ssh master answers nobody", self.host);
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
        let said = master_log::read(&master.log());
        Err(TransportError::Disconnected {
            host: self.host.to_string(),
            said,
        })
    }
}

/// Waits until a master that is to open a session turns out to answer nobody.
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
enum Failure {
    /// It isn't there, or went away before it answered.
    Gone,
    /// The host said no: mostly its `MaxSessions`.
    Refused(String),
    /// Not the master's fault.
    Local(io::Error),
}

impl Failure {
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
