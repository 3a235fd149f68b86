//! Finding the engine, or starting it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::client::Client;
use super::connect::connect;
use super::identity::own_program_path;
use super::{Identity, IpcError, SocketId, SocketPath};

/// How long an engine may take to answer that it heard of the queue: it looks there by itself after a while.
const PUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Environment variable of a new engine: the socket that was made for it. By the time the engine could look at its
/// path, another socket may have replaced it.
const SOCKET_ID_VAR: &str = "SSH_SUBSTITUTER_ENGINE_SOCKET";

/// Environment variable of a new engine: the folder that relative file names in its configuration start from. The
/// engine itself runs in `/`.
const FOLDER_VAR: &str = "SSH_SUBSTITUTER_ENGINE_FOLDER";

/// The folder that relative file names start from: the current one; in an engine, that of the process which spawned it.
#[must_use]
pub fn current_folder() -> Option<PathBuf> {
    let given = std::env::var_os(FOLDER_VAR).map(PathBuf::from);
    given.or_else(|| std::env::current_dir().ok())
}

/// The socket that was made for this process, if it was spawned as an engine.
#[must_use]
pub fn own_socket() -> Option<SocketId> {
    let text = std::env::var(SOCKET_ID_VAR).ok()?;
    SocketId::parse(&text)
}

/// A connection to the engine for this identity, attached and ready. Starts an engine if there is none. `caller` is
/// a number that all clients of one caller share; `silence_timeout` is how long the engine may be silent later on.
///
/// # Errors
/// When no engine can be reached or started.
pub async fn connect_or_spawn(
    identity: &Identity,
    launcher: &Launcher,
    caller: u64,
    silence_timeout: Duration,
) -> Result<Client, IpcError> {
    let socket = SocketPath::of(identity)?;
    let attach = |stream| Client::attach(stream, identity, caller, silence_timeout);
    // Taken before connecting: if no answer comes, the socket may have been replaced by a healthy engine's meanwhile.
    let seen = socket.id();
    let attached = match connect(&socket.path()).await {
        Ok(stream) => attach(stream).await,
        Err(error) => Err(error),
    };
    let unresponsive = match attached {
        // The engine is ending, or has ended: start the next one.
        Err(IpcError::Closed | IpcError::Io(_)) => None,
        Err(error) if error.is_unresponsive() => {
            log::debug!("the engine does not answer: it is left to itself");
            seen
        }
        Err(error) if error.is_not_listening() => {
            // A service manager's engine has a configuration of its own, usually the same one.
            if let Ok(stream) = connect(&socket.managed_path()).await
                && let Ok(client) = attach(stream).await
            {
                return Ok(client);
            }
            None
        }
        done => return done,
    };
    attach(launcher.spawn_or_connect(&socket, unresponsive).await?).await
}

/// Tells the engine for this identity that something was added to the queue of paths to push; starts one if there is none,
/// which looks there by itself.
///
/// # Errors
/// When no engine can be reached or started.
pub async fn wake_or_spawn(
    identity: &Identity,
    launcher: &Launcher,
    is_urgent: bool,
) -> Result<(), IpcError> {
    let socket = SocketPath::of(identity)?;
    match push_at(&socket.path(), is_urgent).await {
        // It is ending, or has ended.
        Err(IpcError::Closed | IpcError::Io(_)) => {}
        Err(error) if error.is_not_listening() => {
            if push_at(&socket.managed_path(), is_urgent).await.is_ok() {
                return Ok(());
            }
        }
        done => return done,
    }
    launcher.spawn_or_connect(&socket, None).await.map(drop)
}

async fn push_at(socket: &Path, is_urgent: bool) -> Result<(), IpcError> {
    let pushed = timeout(PUSH_TIMEOUT, Client::push(socket, is_urgent)).await;
    pushed.unwrap_or(Err(IpcError::Silent(PUSH_TIMEOUT)))
}

/// Starts engines: this very program, with these arguments.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The subcommand, and everything that the engine's configuration depends on.
    pub arguments: Vec<OsString>,
}

impl Launcher {
    /// Starts an engine, unless another process has done so meanwhile, and connects to it. The engine at the socket
    /// `unresponsive` is replaced.
    async fn spawn_or_connect(
        &self,
        socket: &SocketPath,
        unresponsive: Option<SocketId>,
    ) -> Result<UnixStream, IpcError> {
        let path = socket.path();
        let failed = |source| IpcError::Socket {
            path: path.clone(),
            source,
        };
        // Held until the new engine's socket exists.
        let lock = socket.lock().await.map_err(failed)?;
        socket.remove(unresponsive, &lock);
        match connect(&path).await {
            Err(error) if error.is_not_listening() => {}
            result => return result,
        }
        socket.remove(socket.id(), &lock);
        socket.remove_stale_locks();
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let id = socket.id();
        if let Err(error) = self.spawn(listener, id) {
            socket.remove(id, &lock);
            return Err(IpcError::Spawn(error));
        }
        connect(&path).await
    }

    fn spawn(&self, listener: UnixListener, socket: Option<SocketId>) -> io::Result<()> {
        // The caller may have left files open (a lock, say): the engine must not keep them open for its whole life.
        close_fds::set_fds_cloexec(3, &[]);
        let mut command = Command::new(own_program_path());
        if let Some(socket) = socket {
            command.env(SOCKET_ID_VAR, socket.to_string());
        }
        if let Some(folder) = current_folder() {
            command.env(FOLDER_VAR, folder);
        }
        command
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
        Ok(())
    }
}
