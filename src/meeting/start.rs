//! Finding the engine, or starting it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::client::Client;
use super::fingerprint::own_path;
use super::{Identity, MeetingError, Place};

/// A socket on this machine takes a connection within microseconds, unless its queue is full.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

/// How a new engine is started: with these arguments, by this very program.
#[derive(Debug, Clone)]
pub struct Starter {
    /// Its arguments: the subcommand, and all that its configuration depends on.
    pub arguments: Vec<OsString>,
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
    match connect(&place.socket()).await {
        Ok(stream) => match attach(stream).await {
            // It is about to end, or does not run any more: there will be another one.
            Err(MeetingError::Gone | MeetingError::Io(_)) => {}
            Err(MeetingError::Silent(_)) => {
                log::debug!("the engine does not answer: it is left to itself");
                let seen = place.socket_id();
                place.remove(seen, &place.lock().await?);
            }
            result => return result,
        },
        Err(error) if !is_nobody(&error) => return Err(error),
        Err(_) => {
            // A service manager's engine has a configuration of its own, mostly the same.
            if let Ok(stream) = connect(&place.managed_socket()).await
                && let Ok(client) = attach(stream).await
            {
                return Ok(client);
            }
        }
    }
    let stream = start(&place, starter).await?;
    attach(stream).await
}

/// Connects to a socket whose other side is this user.
pub(super) async fn connect(path: &Path) -> Result<UnixStream, MeetingError> {
    let failed = |source| MeetingError::Socket {
        path: path.to_owned(),
        source,
    };
    let stream = timeout(CONNECTS_WITHIN, UnixStream::connect(path)).await;
    let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = stream.map_err(failed)?;
    let uid = stream.peer_cred().map_err(failed)?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        let path = path.to_owned();
        return Err(MeetingError::Stranger { path, uid });
    }
    Ok(stream)
}

/// Whether nobody listens there.
fn is_nobody(error: &MeetingError) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, MeetingError::Socket { source, .. }
        if matches!(source.kind(), NotFound | ConnectionRefused))
}

/// Starts an engine, unless somebody else has done so meanwhile, and connects to it.
async fn start(place: &Place, starter: &Starter) -> Result<UnixStream, MeetingError> {
    let path = place.socket();
    let failed = |source| MeetingError::Socket {
        path: path.clone(),
        source,
    };
    let lock = place.lock().await.map_err(failed)?;
    match connect(&path).await {
        Err(error) if is_nobody(&error) => {}
        result => return result,
    }
    place.remove(place.socket_id(), &lock);
    let listener = UnixListener::bind(&path).map_err(failed)?;
    if let Err(error) = spawn(starter, listener) {
        place.remove(place.socket_id(), &lock);
        return Err(MeetingError::Start(error));
    }
    connect(&path).await
}

fn spawn(starter: &Starter, listener: UnixListener) -> io::Result<()> {
    // What our own caller left open (a lock, say) would stay open for as long as the engine lives.
    // Nothing of our own is meant to be inherited.
    close_fds::set_fds_cloexec(3, &[]);
    Command::new(own_path())
        .args(&starter.arguments)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()?;
    Ok(())
}
