//! Channels over ssh.
//!
//! The `ssh` program makes the connections, so keys, agents, `~/.ssh/config`, jump hosts and known hosts
//! work as users know them. For each host a master process keeps a connection open in the background;
//! all processes of this user share it, and only the first of them waits for a handshake. The master is
//! started here (see [`SshSettings`]); the crate `openssh` talks to its control socket.
//!
//! | module | what it does |
//! | --- | --- |
//! | `ssh` | how the program `ssh` is run, and what it prints |
//! | `login` | when a host may be logged in to, and what is known of a login that failed |
//! | `master` | a master: started, shared, probed, replaced, cleaned up after |
//! | `remote_command` | the command line that is run on the host |
//! | `inspect` | what `status` and `doctor` show of connections |

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::openssh::Error as MuxError;
use async_trait::async_trait;
use tokio::time::Instant;

mod calling_process;
mod inspect;
mod login;
mod master;
mod remote_command;
mod settings;
mod ssh;

pub use self::calling_process::CallingProcess;
pub use self::inspect::{count_masters, login_command};
pub use self::master::sweep;
pub use self::settings::SshSettings;
pub use self::ssh::relative_paths::{make_absolute, make_file_absolute};

use self::login::LoginKind;
use self::master::Master;
use self::master::channel_slots::{ChannelSlot, ChannelSlots};
use self::master::liveness::{LivenessProbe, LivenessProbes, PROBE_AFTER_SILENCE};
use self::master::session::{MuxedChild, OpenOutcome, SessionRequest, is_login_failure};
use self::ssh::master_log::MasterLog;
use super::closing_pipe::ClosingPipe;
use super::runtime_dir::Environment;
use super::{Channel, Child, Phase, Program, Transport, TransportError, TransportErrorKind};
use crate::config::host::Host;
use crate::sys::pipes;

/// Most connections to one host.
const MAX_MASTERS: usize = 8;

/// Size of the pipe from ssh to us, in bytes.
const PIPE_SIZE: usize = 1 << 20;

/// Stands for no limit: longer than anything waits.
const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Starts serve loops over ssh.
pub struct OpenSsh {
    settings: SshSettings,
    slots: Arc<ChannelSlots>,
    probes: LivenessProbes,
    swept: AtomicBool,
}

impl OpenSsh {
    /// Connects to nothing yet.
    pub fn new(settings: SshSettings) -> Self {
        Self {
            settings,
            slots: Arc::default(),
            probes: LivenessProbes::default(),
            swept: AtomicBool::new(false),
        }
    }

    fn runtime_dir(&self) -> Result<PathBuf, TransportError> {
        Ok(Environment::of_process(self.settings.runtime_dir.as_deref()).runtime_dir()?)
    }
}

#[async_trait]
impl Transport for OpenSsh {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        let line = remote_command::line(host, program)?;
        let folder = self.runtime_dir()?;
        if !self.swept.swap(true, Ordering::Relaxed) {
            let (folder, clients) = (folder.clone(), self.settings.only_for.is_some());
            // The sweep runs beside the caller.
            drop(tokio::task::spawn_blocking(move || {
                sweep(&folder);
                if clients {
                    master::sweep_clients(&folder);
                }
            }));
        }
        let name = ssh::arguments::connection_name(host, &self.settings);
        let limit = self.settings.limit().unwrap_or(NO_LIMIT).min(NO_LIMIT);
        let began = Instant::now();
        let time = (began, began + limit);
        let mut refused = String::new();
        let mut login = LoginKind::First;
        for index in 0..MAX_MASTERS {
            let Some(slot) = self.slots.take(&format!("{name}-{index}")) else {
                login = LoginKind::Further;
                continue;
            };
            let place = (folder.as_path(), name.as_str(), index);
            let master = Master::new(host, &self.settings, place, time);
            let request = SessionRequest {
                host,
                line: &line,
                login,
                reuse_timeout: limit / 2,
                deadline: time.1,
            };
            let opened = match request.open_on(&master, &self.probes).await {
                // The host has let us in before: one connection fewer is no failure.
                Err(error) if login == LoginKind::Further && is_login_failure(&error) => {
                    log::debug!("no further connection: {error}");
                    refused = error.ssh_output;
                    break;
                }
                // The process that is to start this master makes no progress (it may be stopped): try the next.
                Err(error)
                    if index == 0
                        && matches!(
                            error.kind,
                            TransportErrorKind::TimedOut {
                                phase: Phase::Queue,
                                ..
                            }
                        ) =>
                {
                    continue;
                }
                opened => opened?,
            };
            match opened {
                OpenOutcome::Session(child, took, probe) => {
                    let link = SessionMaster {
                        log: MasterLog::from_now_on(&master.log()),
                        probe,
                        process: format!("the ssh process behind {}", master.socket().display()),
                    };
                    return channel(host, (*child, took), link, slot);
                }
                // Refused on a new connection: another one would be refused, too.
                OpenOutcome::Refused {
                    fresh: true,
                    ssh_output,
                } => {
                    refused = ssh_output;
                    break;
                }
                OpenOutcome::Refused {
                    fresh: false,
                    ssh_output,
                } => {
                    refused = ssh_output;
                    login = LoginKind::Further;
                }
            }
        }
        let kind = match login {
            LoginKind::First => TransportErrorKind::SessionRefused,
            LoginKind::Further => TransportErrorKind::NoFurtherSession,
        };
        Err(TransportError::new(host, kind).with_output(refused))
    }
}

fn channel(
    host: &Host,
    (mut child, took): (MuxedChild, Duration),
    link: SessionMaster,
    slot: ChannelSlot,
) -> Result<Channel, TransportError> {
    let pipes = (
        child.stdin().take(),
        child.stdout().take(),
        child.stderr().take(),
    );
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        let source = io::ErrorKind::BrokenPipe.into();
        return Err(TransportError::local(host, "take the pipes", source));
    };
    pipes::enlarge(&stdout, PIPE_SIZE);
    Ok(Channel {
        stdin: Box::new(ClosingPipe::new(stdin)),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        child: Box::new(RemoteChild {
            child,
            link,
            _slot: slot,
        }),
        opened_in: Some(took),
    })
}

/// A program on the host. Dropping it closes the control connection; the master then closes the session's
/// streams in both directions, and a serve loop ends at its next read or write.
struct RemoteChild {
    child: MuxedChild,
    link: SessionMaster,
    _slot: ChannelSlot,
}

/// What is known of the master that carries a session.
struct SessionMaster {
    /// OpenOutcome early, since the next master puts another one in its place.
    log: Option<MasterLog>,
    probe: Option<Arc<LivenessProbe>>,
    /// For messages.
    process: String,
}

#[async_trait]
impl Child for RemoteChild {
    async fn wait(self: Box<Self>) -> Option<i32> {
        match self.child.wait().await {
            Ok(status) => status.code(),
            // The crate makes an error of status 127.
            Err(MuxError::Remote(error)) if error.kind() == io::ErrorKind::NotFound => Some(127),
            Err(_) => None,
        }
    }

    /// ssh logs that a host no longer answers keepalives, but not that the host closed the connection.
    fn link_output(&self) -> String {
        self.link
            .log
            .as_ref()
            .map_or(String::new(), MasterLog::read)
    }

    async fn link_unresponsive(&self) -> String {
        match &self.link.probe {
            Some(probe) => probe.until_unresponsive(PROBE_AFTER_SILENCE).await,
            None => std::future::pending().await,
        }
        self.link.process.clone()
    }

    fn is_link_unresponsive(&self) -> bool {
        self.link
            .probe
            .as_ref()
            .is_some_and(|probe| probe.is_unresponsive())
    }
}
