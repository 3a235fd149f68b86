//! Serve loops over ssh.
//!
//! OpenSSH itself makes the connections, so that keys, agents, `~/.ssh/config`, jump hosts and
//! known hosts are what users know. A master connection for each host lives in the background and
//! is shared by all processes of this user: whoever comes next needs no handshake. The master is
//! started here (see [`SshSettings`]) and the crate `openssh` talks to its control socket.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::openssh::{Error as MuxError, Session, Stdio};
use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

mod arguments;
mod ciphers;
mod client;
mod command;
mod diagnose;
mod environment;
mod identities;
mod look;
mod master;
mod relative;
mod slots;
mod sweep;

pub use self::client::CallingProcess;
pub use self::look::{login_command, masters};
pub use self::relative::{resolve, resolve_file};
pub use self::sweep::sweep;

use self::diagnose::Log;

use self::master::Master;
use self::slots::{Slot, Slots};
use super::runtime_dir::Surroundings;
use super::stdin::ClosingPipe;
use super::{Channel, Child, Phase, Program, Transport, TransportError};
use crate::config::host::Host;

/// How many connections to one host there may be.
const MASTERS_MAX: usize = 8;

/// Size of the pipe from ssh to us, in bytes.
const PIPE: usize = 1 << 20;

/// A limit where none is wanted: longer than anything waits.
const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How ssh is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSettings {
    /// `ssh`, or a path to it.
    pub program: PathBuf,
    /// Further words for ssh's command line: `NIX_SSHOPTS`, split. They win over our defaults
    /// (`ConnectTimeout`, `ServerAliveInterval`, `LogLevel`) and lose against what a background
    /// master needs and what the host's URL says.
    pub ssh_options: Vec<String>,
    /// `ssh-auth-sock`: the agent to ask. Without it there is none, whatever `$SSH_AUTH_SOCK` says.
    pub auth_sock: Option<PathBuf>,
    /// For whom alone the connections are, where they may not be shared with all processes of this
    /// user: those that say the same share them.
    pub only_for: Option<CallingProcess>,
    /// `ssh-environment`: names of variables that ssh gets besides those that it needs.
    pub environment: Vec<String>,
    /// The limit for everything from the start until a session is open: proxy, TCP, key
    /// exchange, authentication, session. Zero means no limit.
    pub connect_timeout: Duration,
    /// A link that leaves keepalives unanswered for so long (whole seconds, at least three) is dead.
    /// Part of a connection's identity: one that is shared keeps what it was started with.
    pub dead_link_timeout: Duration,
    /// A connection without sessions ends after this time (whole seconds, at least one).
    pub idle_timeout: Duration,
    /// The private folder; `None` finds the usual one.
    pub runtime_dir: Option<PathBuf>,
}

impl Default for SshSettings {
    fn default() -> Self {
        Self {
            program: PathBuf::from("ssh"),
            ssh_options: Vec::new(),
            auth_sock: None,
            only_for: None,
            environment: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            dead_link_timeout: Duration::from_secs(45),
            idle_timeout: Duration::from_secs(300),
            runtime_dir: None,
        }
    }
}

/// Starts serve loops over ssh.
pub struct OpenSsh {
    settings: SshSettings,
    slots: Arc<Slots>,
    swept: AtomicBool,
}

impl OpenSsh {
    /// Connects to nothing yet.
    pub fn new(settings: SshSettings) -> Self {
        Self {
            settings,
            slots: Arc::default(),
            swept: AtomicBool::new(false),
        }
    }

    fn runtime_dir(&self) -> Result<PathBuf, TransportError> {
        Ok(Surroundings::of_process(self.settings.runtime_dir.as_deref()).runtime_dir()?)
    }
}

#[async_trait]
impl Transport for OpenSsh {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        let line = command::line(host, program)?;
        let folder = self.runtime_dir()?;
        if !self.swept.swap(true, Ordering::Relaxed) {
            let (folder, clients) = (folder.clone(), self.settings.only_for.is_some());
            // Nobody waits for that.
            drop(tokio::task::spawn_blocking(move || {
                sweep(&folder);
                if clients {
                    client::sweep(&folder);
                }
            }));
        }
        let name = arguments::short_name(host, &self.settings);
        let limit = match self.settings.connect_timeout {
            Duration::ZERO => NO_LIMIT,
            limit => limit.min(NO_LIMIT),
        };
        let began = Instant::now();
        let time = (began, began + limit);
        let mut refused = String::new();
        for index in 0..MASTERS_MAX {
            let Some(slot) = self.slots.take(&format!("{name}-{index}")) else {
                continue;
            };
            let place = (folder.as_path(), name.as_str(), index);
            let master = Master::new(host, &self.settings, place, time);
            let opened = match open_on(&master, host, &line, limit / 2, time.1).await {
                // Whoever was to start that one does not come to it (it may be stopped).
                Err(TransportError::TimedOut {
                    phase: Phase::Queue,
                    ..
                }) if index == 0 => continue,
                opened => opened?,
            };
            match opened {
                Opened::Yes(child, took) => {
                    let log = Log::from_now_on(&master.log());
                    return channel(host, (*child, took), log, slot);
                }
                // On a connection of its own there is no room to make.
                Opened::Refused { fresh: true, said } => {
                    refused = said;
                    break;
                }
                Opened::Refused { fresh: false, said } => refused = said,
            }
        }
        Err(TransportError::SessionRefused {
            host: host.to_string(),
            said: refused,
        })
    }
}

type MuxedChild = ::openssh::Child<Arc<Session>>;

enum Opened {
    Yes(Box<MuxedChild>, Duration),
    Refused { fresh: bool, said: String },
}

/// Opens a session on that master, which is started or replaced when it must be. A session on a
/// master that was there already gets only `patience`: its connection may be dead (a laptop that
/// slept), and there should be time left for a new one.
async fn open_on(
    master: &Master<'_>,
    host: &Host,
    line: &str,
    patience: Duration,
    deadline: Instant,
) -> Result<Opened, TransportError> {
    let mut fresh = false;
    let mut retired = false;
    // A master may go away between two steps (idle, or ended by someone), but not every time.
    for _ in 0..4 {
        let seen = master.socket_id();
        if seen.is_none() {
            fresh |= master.ensure().await?;
        }
        let until = if fresh || retired {
            deadline
        } else {
            deadline.min(Instant::now() + patience)
        };
        let began = Instant::now();
        match timeout_at(until, spawn(&master.socket(), line)).await {
            Ok(Ok(child)) => return Ok(Opened::Yes(Box::new(child), began.elapsed())),
            Ok(Err(error)) => match Failure::of(&error) {
                Failure::Gone => fresh |= master.ensure().await?,
                Failure::Refused(said) => return Ok(Opened::Refused { fresh, said }),
                Failure::Local(source) => {
                    let action = "make pipes";
                    return Err(TransportError::Local {
                        host: host.to_string(),
                        action,
                        source,
                    });
                }
            },
            Err(_elapsed) => {
                master.retire(seen).await?;
                if fresh || retired || Instant::now() >= deadline {
                    return Err(master.timed_out(Phase::Session));
                }
                retired = true;
            }
        }
    }
    let said = diagnose::read(&master.log());
    Err(TransportError::Disconnected {
        host: host.to_string(),
        said,
    })
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

fn channel(
    host: &Host,
    (mut child, took): (MuxedChild, Duration),
    log: Option<Log>,
    slot: Slot,
) -> Result<Channel, TransportError> {
    let pipes = (
        child.stdin().take(),
        child.stdout().take(),
        child.stderr().take(),
    );
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        let source = io::ErrorKind::BrokenPipe.into();
        return Err(TransportError::Local {
            host: host.to_string(),
            action: "take the pipes",
            source,
        });
    };
    // Fewer wake-ups for each megabyte; refused where the system's limit is lower.
    let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE);
    Ok(Channel {
        stdin: Box::new(ClosingPipe::new(stdin)),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        child: Box::new(RemoteChild {
            child,
            log,
            _slot: slot,
        }),
        opened_in: Some(took),
    })
}

/// Dropping it closes the control connection; the master then closes the session's streams in both
/// directions, and a serve loop ends at its next read or write.
struct RemoteChild {
    child: MuxedChild,
    /// The log of its master: opened early, since the next master puts another one in its place.
    log: Option<Log>,
    _slot: Slot,
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

    /// ssh notes a host that no longer answers its keepalives, but not that the host closed the
    /// connection.
    fn link_said(&self) -> String {
        self.log.as_ref().map_or(String::new(), Log::read)
    }
}
