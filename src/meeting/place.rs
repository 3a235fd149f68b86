//! The socket's folder, names and lock.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Identity, MeetingError};
use crate::folder::lock::try_lock;
use crate::transport::runtime_dir::Environment;

/// How the sockets' names begin.
const PREFIX: &str = "e-";

/// How their locks' names end.
const LOCK: &str = ".lock";

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

/// Which socket it is: another one at the same path differs here. By its times as well, since file systems
/// give the number of one that was removed to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketId {
    device: u64,
    number: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            number,
            seconds,
            nanoseconds,
        } = self;
        write!(f, "{device}:{number}:{seconds}:{nanoseconds}")
    }
}

impl SocketId {
    /// Reads what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let id = Self {
            device: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
            seconds: parts.next()?.parse().ok()?,
            nanoseconds: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

/// Held while a socket is made or removed.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it gives the lock back")] File);

impl Place {
    /// The place for this identity.
    ///
    /// # Errors
    /// When there is no private folder.
    pub fn of(identity: &Identity) -> Result<Self, MeetingError> {
        let folder = Environment::of_process(None).runtime_dir()?;
        let name = format!("{PREFIX}{}", &identity.fingerprint()[..DIGITS]);
        Ok(Self { folder, name })
    }

    /// All engines' sockets of this user.
    ///
    /// # Errors
    /// When there is no private folder, or it cannot be read.
    pub fn all() -> Result<Vec<PathBuf>, MeetingError> {
        let folder = Environment::of_process(None).runtime_dir()?;
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

    /// Whether it is a service manager that listens on this socket.
    #[must_use]
    pub fn is_managed(socket: &Path) -> bool {
        socket.file_name() == Some(MANAGED.as_ref())
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
        try_lock(&self.folder.join(format!("{}{LOCK}", self.name))).map(Lock)
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

    /// Removes the locks of other identities whose engine has gone: each version and each configuration has its own.
    pub(super) fn sweep(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let engine = name.to_str().and_then(|name| name.strip_suffix(LOCK));
            let other = engine.filter(|name| name.starts_with(PREFIX) && **name != self.name);
            let Some(socket) = other.map(|name| self.folder.join(name)) else {
                continue;
            };
            // Whoever makes a socket has the lock.
            let lock = (!socket.exists()).then(|| try_lock(&entry.path()));
            if let Some(Ok(_lock)) = lock
                && !socket.exists()
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn socket_id(path: &Path) -> Option<SocketId> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some(SocketId {
        device: meta.dev(),
        number: meta.ino(),
        seconds: meta.ctime(),
        nanoseconds: meta.ctime_nsec(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_told_from_the_next_one_at_its_path() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("socket");
        let mut seen = Vec::new();
        // Some file systems use a number again at once.
        for _ in 0..20 {
            let _listener = UnixListener::bind(&path).unwrap();
            let id = socket_id(&path).unwrap();
            assert_eq!(SocketId::parse(&id.to_string()), Some(id));
            assert!(!seen.contains(&id), "{id:?} again");
            seen.push(id);
            fs::remove_file(&path).unwrap();
            // The clock of file times goes in steps of some milliseconds.
            std::thread::sleep(Duration::from_millis(11));
        }
        for text in ["", "1:2:3", "1:2:3:4:5", "1:2:3:x"] {
            assert_eq!(SocketId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn locks_of_engines_that_have_gone_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let place = Place {
            folder: temp.path().to_owned(),
            name: "e-own".to_owned(),
        };
        for name in ["e-own", "e-gone", "e-runs", "e-held", "masters-0"] {
            fs::write(at(&format!("{name}.lock")), "").unwrap();
        }
        let _runs = UnixListener::bind(at("e-runs")).unwrap();
        let _held = try_lock(&at("e-held.lock")).unwrap();
        place.sweep();
        for name in ["e-own", "e-runs", "e-held", "masters-0"] {
            assert!(at(&format!("{name}.lock")).exists(), "{name}");
        }
        assert!(!at("e-gone.lock").exists());
    }
}
