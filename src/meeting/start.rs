//! Finding the engine, or starting it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::client::Client;
use super::fingerprint::own_path;
use super::{Identity, MeetingError, Place, SocketId};

/// A socket on this machine takes a connection within microseconds, unless its queue is full.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

/// How often somebody tries whose place in the queue is taken.
const TURN: Duration = Duration::from_millis(10);

/// How a new engine is started: with these arguments, by this very program.
#[derive(Debug, Clone)]
pub struct Starter {
    /// Its arguments: the subcommand, and all that its configuration depends on.
    pub arguments: Vec<OsString>,
}

/// In a new engine's environment: which socket was made for it. By the time that it could look for itself another one may
/// have taken its place.
const SOCKET_ID: &str = "SSH_SUBSTITUTER_ENGINE_SOCKET";

/// In a new engine's environment: the folder that its configuration names files from. It runs elsewhere.
const FOLDER: &str = "SSH_SUBSTITUTER_ENGINE_FOLDER";

/// The folder that files are named from: the current one, for an engine that of the process which has started it.
#[must_use]
pub fn current_folder() -> Option<PathBuf> {
    let given = std::env::var_os(FOLDER).map(PathBuf::from);
    given.or_else(|| std::env::current_dir().ok())
}

/// The socket that was made for this process, which has been started as an engine.
#[must_use]
pub fn own_socket() -> Option<SocketId> {
    let text = std::env::var(SOCKET_ID).ok()?;
    SocketId::parse(&text)
}

/// A connection to the engine for this identity, attached and ready: to the one that is there, else
/// to a new one. `caller` is a number that all clients of one caller have in common.
///
/// # Errors
/// When it cannot be had.
pub async fn meet(
    identity: &Identity,
    starter: &Starter,
    caller: u64,
    patience: Duration,
) -> Result<Client, MeetingError> {
    let place = Place::of(identity)?;
    let attach = |stream| Client::attach(stream, identity, caller, patience);
    // Before anybody is asked: what is there when the answer fails to come may be a new one, and somebody else's.
    let seen = place.socket_id();
    let attached = match connect(&place.socket()).await {
        Ok(stream) => attach(stream).await,
        Err(error) => Err(error),
    };
    let silent = match attached {
        // It is about to end, or does not run any more: there will be another one.
        Err(MeetingError::Gone | MeetingError::Io(_)) => None,
        Err(error) if is_silent(&error) => {
            log::debug!("the engine does not answer: it is left to itself");
            seen
        }
        Err(error) if is_nobody(&error) => {
            // A service manager's engine has a configuration of its own, mostly the same.
            if let Ok(stream) = connect(&place.managed_socket()).await
                && let Ok(client) = attach(stream).await
            {
                return Ok(client);
            }
            None
        }
        done => return done,
    };
    let stream = start(&place, starter, silent).await?;
    attach(stream).await
}

/// Connects to a socket whose other side is this user.
pub(super) async fn connect(path: &Path) -> Result<UnixStream, MeetingError> {
    let failed = |source| MeetingError::Socket {
        path: path.to_owned(),
        source,
    };
    let stream = timeout(CONNECTS_WITHIN, connect_in_turn(path)).await;
    let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = stream.map_err(failed)?;
    let uid = stream.peer_cred().map_err(failed)?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        let path = path.to_owned();
        return Err(MeetingError::Stranger { path, uid });
    }
    Ok(stream)
}

/// Connects, when there is room in the queue: a socket on this machine says at once when there is none.
async fn connect_in_turn(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(TURN).await,
            done => return done,
        }
    }
}

/// Whether somebody listens there who does nothing.
fn is_silent(error: &MeetingError) -> bool {
    match error {
        MeetingError::Silent(_) => true,
        MeetingError::Socket { source, .. } => source.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

/// Whether nobody listens there.
fn is_nobody(error: &MeetingError) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, MeetingError::Socket { source, .. }
        if matches!(source.kind(), NotFound | ConnectionRefused))
}

/// Starts an engine, unless somebody else has done so meanwhile, and connects to it. The one at the socket `silent` counts
/// as none.
async fn start(
    place: &Place,
    starter: &Starter,
    silent: Option<SocketId>,
) -> Result<UnixStream, MeetingError> {
    let path = place.socket();
    let failed = |source| MeetingError::Socket {
        path: path.clone(),
        source,
    };
    let lock = place.lock().await.map_err(failed)?;
    // All that follows is done before anybody else can find the place empty.
    place.remove(silent, &lock);
    match connect(&path).await {
        Err(error) if is_nobody(&error) => {}
        result => return result,
    }
    place.remove(place.socket_id(), &lock);
    place.sweep();
    let listener = UnixListener::bind(&path).map_err(failed)?;
    let socket = place.socket_id();
    if let Err(error) = spawn(starter, listener, socket) {
        place.remove(socket, &lock);
        return Err(MeetingError::Start(error));
    }
    connect(&path).await
}

fn spawn(starter: &Starter, listener: UnixListener, socket: Option<SocketId>) -> io::Result<()> {
    // What our own caller left open (a lock, say) would stay open for as long as the engine lives.
    // Nothing of our own is meant to be inherited.
    close_fds::set_fds_cloexec(3, &[]);
    let mut command = Command::new(own_path());
    if let Some(socket) = socket {
        command.env(SOCKET_ID, socket.to_string());
    }
    if let Some(folder) = current_folder() {
        command.env(FOLDER, folder);
    }
    command
        .args(&starter.arguments)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()?;
    Ok(())
}
