//! Which socket has a name: one that was removed and made again is another one.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Tells a socket from a later one at the same path. Includes the change time, since file systems reuse inode numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketId {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            inode,
            seconds,
            nanoseconds,
        } = self;
        write!(f, "{device}:{inode}:{seconds}:{nanoseconds}")
    }
}

impl From<&Metadata> for SocketId {
    fn from(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            seconds: meta.ctime(),
            nanoseconds: meta.ctime_nsec(),
        }
    }
}

impl SocketId {
    /// What has this name now, if anything.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|meta| (&meta).into())
    }

    /// Reads what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let id = Self {
            device: parts.next()?.parse().ok()?,
            inode: parts.next()?.parse().ok()?,
            seconds: parts.next()?.parse().ok()?,
            nanoseconds: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_is_told_from_the_next_one_at_its_path() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("socket");
        let mut seen = Vec::new();
        // Some file systems use a number again at once.
        for _ in 0..20 {
            let _listener = UnixListener::bind(&path).unwrap();
            let id = SocketId::of(&path).unwrap();
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
}
