//! One ssh master: a process that holds one connection open for all processes of this user, and exits when
//! it has not been used for a while.
//!
//! ```text
//! NAME-INDEX        its control socket; ssh makes and removes it
//! NAME-INDEX.lock   flock(2)ed while someone starts or replaces the master
//! NAME-INDEX.log    what ssh printed since the last start
//! NAME.known        the host's key, when it is given in the URL
//! ADDRESS.login     see `login`
//! ```
//! Once a master has ended, the next process that connects to anything removes its files (`sweep`). Only the
//! holder of the lock may remove or replace the socket and the other files. The file operations here block:
//! they are few, on a small folder in memory.

pub(super) mod channel_slots;
pub(super) mod liveness;
pub(super) mod session;
mod sweep;

pub use sweep::sweep;
pub(super) use sweep::sweep_clients;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ::openssh::Session;
use rustix::process::{Pid, Signal};
use tokio::time::{Instant, timeout, timeout_at};

use super::SshSettings;
use super::login::{LoginKind, LoginPermit, address, identities};
use super::ssh::arguments::{self, MasterFiles};
use super::ssh::config::{SSH_CONFIG_TIMEOUT, absolute_path_options};
use super::ssh::{ciphers, diagnose, environment, master_log};
use crate::config::host::Host;
use crate::folder::SocketId;
use crate::folder::lock::lock_until;
use crate::transport::awake_timeout::timeout_awake;
use crate::transport::{Phase, TransportError, TransportErrorKind};

/// How long a master may take to answer. A running one takes microseconds.
const MASTER_TIMEOUT: Duration = Duration::from_secs(2);

/// A master, running or not.
pub(super) struct Master<'a> {
    host: &'a Host,
    settings: &'a SshSettings,
    folder: &'a Path,
    name: &'a str,
    index: usize,
    began: Instant,
    deadline: Instant,
}

impl<'a> Master<'a> {
    pub(super) fn new(
        host: &'a Host,
        settings: &'a SshSettings,
        (folder, name, index): (&'a Path, &'a str, usize),
        (began, deadline): (Instant, Instant),
    ) -> Self {
        Self {
            host,
            settings,
            folder,
            name,
            index,
            began,
            deadline,
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join(format!("{}-{}", self.name, self.index))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder
            .join(format!("{}-{}.log", self.name, self.index))
    }

    /// The socket that is there now. Anything but a socket of this user counts as none, and is replaced.
    pub(super) fn socket_id(&self) -> Option<SocketId> {
        let meta = fs::symlink_metadata(self.socket()).ok()?;
        let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
        if !is_ours || !meta.file_type().is_socket() {
            return None;
        }
        Some(SocketId::from(&meta))
    }

    /// Starts the master unless one is running. True when this call started it.
    pub(super) async fn ensure(&self, login: LoginKind) -> Result<bool, TransportError> {
        let _lock = self.lock().await?;
        if self.is_answering().await {
            return Ok(false);
        }
        self.remove_socket()?;
        self.log_in(login).await?;
        Ok(true)
    }

    /// Gives up on a running master whose connection seems dead: it takes no more sessions and exits with its
    /// last one. Does nothing when another master than the one that was `seen` has taken its place.
    pub(super) async fn retire(&self, seen: Option<SocketId>) -> Result<(), TransportError> {
        let _lock = self.lock().await?;
        if seen.is_none() || self.socket_id() != seen {
            return Ok(());
        }
        let session = Session::resume_mux(self.socket().into(), None);
        let _ = timeout(MASTER_TIMEOUT, session.close()).await;
        self.remove_socket()
    }

    /// The same for a master that does not respond, and so cannot be asked to exit.
    pub(super) async fn abandon(&self, seen: Option<SocketId>) -> Result<(), TransportError> {
        let _lock = self.lock().await?;
        match seen.is_some() && self.socket_id() == seen {
            true => self.remove_socket(),
            false => Ok(()),
        }
    }

    async fn is_answering(&self) -> bool {
        self.socket_id().is_some() && is_answering(&self.socket()).await
    }

    fn remove_socket(&self) -> Result<(), TransportError> {
        match fs::remove_file(self.socket()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove a stale control socket", error))
            }
            _ => Ok(()),
        }
    }

    async fn lock(&self) -> Result<File, TransportError> {
        let path = self
            .folder
            .join(format!("{}-{}.lock", self.name, self.index));
        // Leaves time for starting another master.
        let until = match self.index {
            0 => self.began + (self.deadline - self.began) / 2,
            _ => self.deadline,
        };
        let locked = lock_until(&path, until).await;
        let locked =
            locked.map_err(|error| self.failed("open the lock of the connection", error))?;
        locked.ok_or_else(|| self.timed_out(Phase::Queue))
    }

    /// Starts the master once its address may be logged in to.
    async fn log_in(&self, login: LoginKind) -> Result<(), TransportError> {
        let address = address::of(self.host, self.settings).await;
        let permit = LoginPermit::acquire(self.folder, &address, self.deadline).await;
        let permit = permit.map_err(|error| self.failed("lock the host's address", error))?;
        let Some(permit) = permit else {
            return Err(self.timed_out(Phase::Queue));
        };
        if let Some((since, wait)) = permit.backoff(login) {
            let kind = TransportErrorKind::LoginHeldBack { since, wait };
            return Err(TransportError::new(self.host, kind));
        }
        let started = self.start().await;
        permit.record_outcome(login, started.as_ref().err());
        started
    }

    async fn start(&self) -> Result<(), TransportError> {
        let known_hosts = self.known_hosts()?;
        let log_path = self.log();
        // A new file: an older master may still write to the old one.
        let _ = fs::remove_file(&log_path);
        let log = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(|error| self.failed("create the log of the connection", error))?;
        let socket = self.socket();
        let paths = MasterFiles {
            socket: &socket,
            log: &log_path,
            known_hosts: known_hosts.as_deref(),
        };
        let (ciphers, relative) = tokio::join!(
            timeout(
                SSH_CONFIG_TIMEOUT,
                ciphers::option(self.host, self.settings)
            ),
            timeout(
                SSH_CONFIG_TIMEOUT,
                absolute_path_options(self.host, self.settings)
            ),
        );
        let ciphers = ciphers.ok().flatten();
        let mut settings = self.settings.clone();
        settings.ssh_options.extend(relative.unwrap_or_default());
        let mut command = tokio::process::Command::new(&self.settings.program);
        command
            .args(ciphers.iter().flat_map(|ciphers| ["-o", ciphers]))
            .args(arguments::master_arguments(self.host, &settings, &paths))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // It outlives its caller, and must not keep a file system busy.
            .current_dir("/")
            // Out of reach of the terminal's Ctrl-C; and its proxies can be killed together with it.
            .process_group(0);
        environment::prepare(&mut command, self.settings);
        let child = command.spawn().map_err(|source| {
            let program = self.settings.program.clone();
            TransportError::of_this_machine(TransportErrorKind::SshMissing { program, source })
        })?;
        let mut child = StartingSsh(child);
        let status = match timeout_at(self.deadline, child.0.wait()).await {
            Ok(status) => status.map_err(|error| self.failed("wait for ssh", error))?,
            Err(_elapsed) => {
                drop(child);
                return Err(self.timed_out(Phase::Connect));
            }
        };
        // With -f ssh stays in the foreground until it is logged in and its socket is there. Others may have found the
        // socket already: the answer comes after their sessions.
        if status.success() {
            let session = Session::resume_mux(socket.into(), None);
            match timeout_at(self.deadline, session.check()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => {}
                Err(_elapsed) => return Err(self.timed_out(Phase::Connect)),
            }
        }
        let ssh_output = master_log::read(&log_path);
        let error = diagnose::classify(
            self.host,
            ssh_output,
            (self.began.elapsed(), self.settings.limit()),
        );
        Err(identities::add_tried(error, self.host, self.settings, self.deadline).await)
    }

    /// Writes the known_hosts file for a host whose key is given. Its pattern is `*`: the key holds under
    /// whatever name, alias or port ssh looks for it.
    fn known_hosts(&self) -> Result<Option<PathBuf>, TransportError> {
        let Some(key) = &self.host.public_host_key else {
            return Ok(None);
        };
        let failed = |error| self.failed("write down the host key", error);
        let key = key.trim();
        if key.contains(char::is_control) || key.is_empty() {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not one line",
            )));
        }
        let path = self.folder.join(format!("{}.known", self.name));
        // Masters of one host may be started at the same time: each writes a file of its own.
        let new = self
            .folder
            .join(format!("{}-{}.new", self.name, self.index));
        let _ = fs::remove_file(&new);
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(format!("* {key}\n").as_bytes()))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(failed)?;
        Ok(Some(path))
    }

    pub(super) fn timed_out(&self, phase: Phase) -> TransportError {
        let kind = TransportErrorKind::TimedOut {
            after: self.began.elapsed(),
            limit: self.settings.limit(),
            phase,
        };
        TransportError::new(self.host, kind).with_output(master_log::read(&self.log()))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> TransportError {
        TransportError::local(self.host, action, source)
    }
}

/// Whether a master answers on this socket. Takes at most two seconds.
pub(super) async fn is_answering(socket: &Path) -> bool {
    let session = Session::resume_mux(socket.into(), None);
    let checked = timeout_awake(MASTER_TIMEOUT, session.check()).await;
    matches!(checked, Some(Ok(())))
}

/// An ssh that has not gone to the background yet. Dropping it kills it and its proxies; the runtime
/// reaps it.
struct StartingSsh(tokio::process::Child);

impl Drop for StartingSsh {
    fn drop(&mut self) {
        // There is no id once it has been waited for: the number may have been reused.
        if let Some(pid) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}
