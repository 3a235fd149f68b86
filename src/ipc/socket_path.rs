//! The socket's folder, names and lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::{Identity, IpcError};
use crate::folder::SocketId;
use crate::folder::lock::{lock_until, try_lock};
use crate::transport::runtime_dir::Environment;

/// Prefix of the sockets' names.
const PREFIX: &str = "e-";

/// Suffix of their locks' names.
const LOCK_SUFFIX: &str = ".lock";

/// How many digits of the fingerprint are in the name: all 64 would exceed the length limit of socket paths.
const NAME_DIGITS: usize = 16;

/// Name of the socket that a service manager listens on.
const MANAGED_NAME: &str = "engine";

/// How long to wait for the lock, which is held for a few system calls.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the socket of the engine for one identity is.
#[derive(Debug, Clone)]
pub struct SocketPath {
    folder: PathBuf,
    name: String,
}

/// Held while a socket is made or removed.
#[derive(Debug)]
pub struct SocketLock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl SocketPath {
    /// The socket path for this identity.
    ///
    /// # Errors
    /// When there is no private folder.
    pub fn of(identity: &Identity) -> Result<Self, IpcError> {
        let folder = Environment::of_process(None).runtime_dir()?;
        let name = format!("{PREFIX}{}", &identity.fingerprint()[..NAME_DIGITS]);
        Ok(Self { folder, name })
    }

    /// The sockets of all engines of this user.
    ///
    /// # Errors
    /// When there is no private folder, or it cannot be read.
    pub fn all() -> Result<Vec<PathBuf>, IpcError> {
        let folder = Environment::of_process(None).runtime_dir()?;
        let mut all = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_string_lossy().starts_with(PREFIX) || name == MANAGED_NAME;
            if ours && entry.file_type()?.is_socket() {
                all.push(entry.path());
            }
        }
        all.sort();
        Ok(all)
    }

    /// The socket that is made for this identity.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The socket of a service manager, if there is one.
    #[must_use]
    pub fn managed_path(&self) -> PathBuf {
        self.folder.join(MANAGED_NAME)
    }

    /// Whether a service manager listens on this socket.
    #[must_use]
    pub fn is_managed(socket: &Path) -> bool {
        socket.file_name() == Some(MANAGED_NAME.as_ref())
    }

    /// The socket that is there now.
    #[must_use]
    pub fn id(&self) -> Option<SocketId> {
        SocketId::of(&self.path())
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds it; otherwise when it cannot be made.
    pub fn try_lock(&self) -> io::Result<SocketLock> {
        try_lock(&self.lock_path()).map(SocketLock)
    }

    /// Takes the lock; waits for it up to [`LOCK_TIMEOUT`].
    ///
    /// # Errors
    /// `WouldBlock` when another process holds it all that time, or is stopped while it does; otherwise when it cannot
    /// be made.
    pub(super) async fn lock(&self) -> io::Result<SocketLock> {
        let lock = lock_until(&self.lock_path(), Instant::now() + LOCK_TIMEOUT).await?;
        lock.map(SocketLock)
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn lock_path(&self) -> PathBuf {
        self.folder.join(format!("{}{LOCK_SUFFIX}", self.name))
    }

    /// Removes the socket if it is still the one that was `seen`. Needs the lock.
    pub fn remove(&self, seen: Option<SocketId>, _lock: &SocketLock) {
        if seen.is_some() && self.id() == seen {
            // The next process that needs the path tries again.
            let _ = fs::remove_file(self.path());
        }
    }

    /// Removes the locks of other identities whose engine has ended: each version and each configuration leaves one.
    pub(super) fn remove_stale_locks(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let engine = name
                .to_str()
                .and_then(|name| name.strip_suffix(LOCK_SUFFIX));
            let other = engine.filter(|name| name.starts_with(PREFIX) && **name != self.name);
            let Some(socket) = other.map(|name| self.folder.join(name)) else {
                continue;
            };
            // A process that makes a socket holds the lock.
            let lock = (!socket.exists()).then(|| try_lock(&entry.path()));
            if let Some(Ok(_lock)) = lock
                && !socket.exists()
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn locks_of_engines_that_have_gone_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let own = SocketPath {
            folder: temp.path().to_owned(),
            name: "e-own".to_owned(),
        };
        for name in ["e-own", "e-gone", "e-runs", "e-held", "masters-0"] {
            fs::write(at(&format!("{name}.lock")), "").unwrap();
        }
        let _runs = UnixListener::bind(at("e-runs")).unwrap();
        let _held = try_lock(&at("e-held.lock")).unwrap();
        own.remove_stale_locks();
        for name in ["e-own", "e-runs", "e-held", "masters-0"] {
            assert!(at(&format!("{name}.lock")).exists(), "{name}");
        }
        assert!(!at("e-gone.lock").exists());
    }
}
