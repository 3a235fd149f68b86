//! Connecting to a socket of this user.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::IpcError;

/// A local socket accepts within microseconds, unless its backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before connecting again while the backlog is full.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Connects to a socket whose other side is this user.
pub(super) async fn connect(path: &Path) -> Result<UnixStream, IpcError> {
    let failed = |source| IpcError::Socket {
        path: path.to_owned(),
        source,
    };
    let stream = timeout(CONNECT_TIMEOUT, connect_when_backlog_has_room(path)).await;
    let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = stream.map_err(failed)?;
    let uid = stream.peer_cred().map_err(failed)?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        let path = path.to_owned();
        return Err(IpcError::ForeignUser { path, uid });
    }
    Ok(stream)
}

/// A local socket fails with `WouldBlock` at once when its backlog is full.
async fn connect_when_backlog_has_room(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(RETRY_INTERVAL).await,
            done => return done,
        }
    }
}
