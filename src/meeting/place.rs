//! The socket's folder, names and lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{Identity, MeetingError};
use crate::folder::open_lock;
use crate::transport::runtime_dir::Surroundings;

/// How the sockets' names begin.
const PREFIX: &str = "e-";

/// How many digits of the fingerprint are in the name: with all of them the path would be too long.
const DIGITS: usize = 16;

/// The socket that a service manager listens on.
const MANAGED: &str = "engine";

/// How long somebody else may hold the lock, who does nothing but a few system calls meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the engine of one identity is to be found.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
    name: String,
}

/// Which socket it is: another one at the same path differs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketId(u64, u64);

/// Held while a socket is made or removed.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it gives the lock back")] File);

impl Place {
    /// The place for this identity.
    ///
    /// # Errors
    /// When there is no private folder.
    pub fn of(identity: &Identity) -> Result<Self, MeetingError> {
        let folder = Surroundings::of_process(None).runtime_dir()?;
        let name = format!("{PREFIX}{}", &identity.fingerprint()[..DIGITS]);
        Ok(Self { folder, name })
    }

    /// All engines' sockets of this user.
    ///
    /// # Errors
    /// When there is no private folder, or it cannot be read.
    pub fn all() -> Result<Vec<PathBuf>, MeetingError> {
        let folder = Surroundings::of_process(None).runtime_dir()?;
        let mut all = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_string_lossy().starts_with(PREFIX) || name == MANAGED;
            if ours && entry.file_type()?.is_socket() {
                all.push(entry.path());
            }
        }
        all.sort();
        Ok(all)
    }

    /// The socket that is made for this identity.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The socket of a service manager, where there is one.
    #[must_use]
    pub fn managed_socket(&self) -> PathBuf {
        self.folder.join(MANAGED)
    }

    /// The socket that is there now.
    #[must_use]
    pub fn socket_id(&self) -> Option<SocketId> {
        socket_id(&self.socket())
    }

    /// Takes the lock, if nobody has it.
    ///
    /// # Errors
    /// When somebody has it, or it cannot be made.
    pub fn try_lock(&self) -> io::Result<Lock> {
        let file = open_lock(&self.folder.join(format!("{}.lock", self.name)))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock(file))
    }

    /// Takes the lock; waits for it up to two seconds.
    pub(super) async fn lock(&self) -> io::Result<Lock> {
        let began = Instant::now();
        loop {
            match self.try_lock() {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                result => return result,
            }
        }
    }

    /// Removes the socket, if it is that one. To be called with the lock held.
    pub fn remove(&self, seen: Option<SocketId>, _lock: &Lock) {
        if seen.is_some() && self.socket_id() == seen {
            // What cannot be removed is replaced by whoever needs the place.
            let _ = fs::remove_file(self.socket());
        }
    }
}

fn socket_id(path: &Path) -> Option<SocketId> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some(SocketId(meta.dev(), meta.ino()))
}
