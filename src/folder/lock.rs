//! Locks between processes: files in a private folder that are locked with flock(2). A lock lasts as long as
//! the file is open.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

/// The first pause between two tries; doubled with each.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(5);

/// The longest such pause; from then on it is also checked whether the holder is stopped.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Opens a file in a private folder for locking; creates it if it is missing. Its contents stay, and can be
/// read and written.
///
/// # Errors
/// Those of the system, also when it is a symbolic link.
pub fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Locks an open file or folder for as long as it is open, without waiting.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when another process has it locked, and those of the system.
pub fn try_flock(file: impl AsFd) -> io::Result<()> {
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// Opens and locks such a file ([`open_lock`]), without waiting. The holder of the lock may remove the file: so a lock
/// counts only if the file still has the name, and no two processes hold the same one.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when another process has it locked, and those of the system.
pub fn try_lock(path: &Path) -> io::Result<File> {
    loop {
        let file = open_lock(path)?;
        try_flock(&file)?;
        let id = |meta: Metadata| (meta.dev(), meta.ino());
        match fs::symlink_metadata(path).map(id) {
            Ok(there) if there == id(file.metadata()?) => return Ok(file),
            // Removed by the holder before us.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits for [`try_lock`] without blocking the thread (flock(2) has no asynchronous form); `None` when the lock does
/// not become free in time, or when its holder is stopped and may never release it. Tries at least once.
///
/// # Errors
/// When the file cannot be opened or locked at all.
pub async fn lock_until(path: &Path, until: Instant) -> io::Result<Option<File>> {
    let mut pause = MIN_RETRY_PAUSE;
    loop {
        match try_lock(path) {
            Ok(file) => return Ok(Some(file)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
        if Instant::now() >= until || pause >= MAX_RETRY_PAUSE && is_holder_stopped(path) {
            return Ok(None);
        }
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(MAX_RETRY_PAUSE);
    }
}

/// Whether the process that has locked this file is stopped (SIGSTOP, a debugger), by `/proc/locks` and
/// `/proc/PID/stat` (proc(5)). False where these files are missing.
fn is_holder_stopped(path: &Path) -> bool {
    let Ok(inode) = fs::metadata(path).map(|meta| meta.ino().to_string()) else {
        return false;
    };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 1234 fe:01:56789 0 EOF`. File systems give another device there than stat(2) does, so
    // only the inode is compared.
    let holder = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = fields.get(1) == Some(&"FLOCK")
            && fields.get(5)?.rsplit(':').next() == Some(inode.as_str());
        is_it.then(|| fields.get(4).copied()).flatten()
    });
    holder.is_some_and(is_stopped)
}

fn is_stopped(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the program's name in parentheses, and may hold anything.
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    /// A process that holds the lock (flock(1) of util-linux).
    struct Holder(Child);

    impl Holder {
        fn new(path: &Path) -> Self {
            let mut command = Command::new("flock");
            command.arg("--no-fork").arg(path).args(["sleep", "60"]);
            let holder = Self(command.stdin(Stdio::null()).spawn().unwrap());
            while try_lock(path).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            holder
        }

        fn signal(&self, signal: Signal) {
            kill_process(Pid::from_child(&self.0), signal).unwrap();
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn a_holder_that_is_stopped_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let holder = Holder::new(&path);
        let began = Instant::now();
        let soon = began + Duration::from_millis(300);
        assert!(lock_until(&path, soon).await.unwrap().is_none());
        assert!(Instant::now() >= soon, "a running one is waited for");
        holder.signal(Signal::STOP);
        while !is_stopped(&holder.0.id().to_string()) {
            sleep(Duration::from_millis(5)).await;
        }
        let late = Instant::now() + Duration::from_secs(60);
        assert!(lock_until(&path, late).await.unwrap().is_none());
        assert!(Instant::now() < late);
        drop(holder);
        assert!(lock_until(&path, late).await.unwrap().is_some());
    }

    #[test]
    fn a_lock_that_was_removed_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let held = try_lock(&path).unwrap();
        let error = try_lock(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // Whoever waits has opened it by now, and gets it when it is no longer the lock.
        let waiting = open_lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        drop(held);
        try_flock(&waiting).unwrap();
        let _next = try_lock(&path).unwrap();
        assert!(try_lock(&path).is_err());
    }
}
