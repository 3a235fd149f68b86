//! Shows each message once per command.
//!
//! Nix starts several processes for one command (`max-connections`), Nix 1.x one for each path, and all share the
//! command's stderr. All of them run into the same trouble: the first one shows the message, the others leave it out.
//!
//! ```text
//! RUNTIME/shown/PARENT-HASH   flock(2)ed by the process that has shown this text, as long as it lives
//! ```
//! `PARENT` is the process id that started them all, `HASH` is that of the text. If these files cannot be used, the
//! message is shown.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::folder::lock::{open_lock, try_flock};
use crate::transport::runtime_dir::Environment;

/// How many files one process keeps open at most; further messages are always shown.
const MAX_OPEN_FILES: usize = 64;

/// Unlocked files are removed at this age.
const MAX_FILE_AGE: Duration = Duration::from_secs(60 * 60);

/// Decides which messages this process shows to the user of a command that may have started several processes.
pub struct MessageDedup {
    /// The process id that started them all.
    parent: u64,
    folder: OnceLock<Option<PathBuf>>,
    /// What this process has shown. The lock is held while a file is locked and read, so that two threads do not claim
    /// the same message.
    own: Mutex<HashMap<String, File>>,
}

impl MessageDedup {
    /// For a process that was started by the process `parent` (0 if unknown).
    #[must_use]
    pub fn new(parent: u64) -> Self {
        Self {
            parent,
            folder: OnceLock::new(),
            own: Mutex::default(),
        }
    }

    /// Whether this process should show a message. It should not if another process of the same command that still runs
    /// has shown it, or one that has ended and called this with a `linger` showed it less than `linger` ago. A process
    /// may repeat its own messages.
    pub fn should_show(&self, text: &str, linger: Duration) -> bool {
        // A child of init belongs to no command.
        if self.parent <= 1 {
            return true;
        }
        let folder = self.folder.get_or_init(|| folder().ok());
        let Some(folder) = folder else { return true };
        let mut hasher = DefaultHasher::new();
        without_measurements(text).hash(&mut hasher);
        let name = format!("{:x}-{:016x}", self.parent, hasher.finish());
        let mut own = self.own.lock();
        if own.contains_key(&name) || own.len() >= MAX_OPEN_FILES {
            return true;
        }
        match claim(&folder.join(&name), linger) {
            Ok(Claim::New(file)) => {
                own.insert(name, file);
                true
            }
            Ok(Claim::Shown) => false,
            Err(_) => true,
        }
    }
}

enum Claim {
    /// No other process has shown it; it counts as shown while the file is open.
    New(File),
    Shown,
}

fn claim(path: &Path, linger: Duration) -> io::Result<Claim> {
    let mut file = open_lock(path)?;
    match try_flock(&file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Claim::Shown),
        locked => locked?,
    }
    let meta = file.metadata()?;
    let age = meta.modified()?.elapsed().unwrap_or_default();
    if meta.len() > 0 && age < linger {
        return Ok(Claim::Shown);
    }
    file.set_len(0)?;
    if !linger.is_zero() {
        // Marks a message that counts as shown after this process has ended.
        file.write_all(b"shown\n")?;
    }
    Ok(Claim::New(file))
}

fn folder() -> io::Result<PathBuf> {
    let runtime = Environment::of_process(None).runtime_dir();
    let folder = runtime.map_err(io::Error::other)?.join("shown");
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => sweep(&folder),
    }
    Ok(folder)
}

fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let changed = entry.metadata().and_then(|meta| meta.modified());
        let age = changed.map(|changed| changed.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > MAX_FILE_AGE)
            && let Ok(file) = open_lock(&entry.path())
            && try_flock(&file).is_ok()
        {
            // What cannot be removed is small.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The words of a message without measured values (numbers before `s` and `bytes`), which differ from process to process.
fn without_measurements(text: &str) -> Vec<&str> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_unit = |word: &&str| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_punctuation());
        word == "s" || word == "bytes"
    };
    let is_measurement =
        |at: usize| words[at].parse::<f64>().is_ok() && words.get(at + 1).is_some_and(is_unit);
    let kept = (0..words.len()).filter(|at| !is_measurement(*at));
    kept.map(|at| words[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_claimed_by_one_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("7-abc");
        let (at_once, later) = (Duration::ZERO, Duration::from_secs(60));
        let is_new = |linger| matches!(claim(&path, linger).unwrap(), Claim::New(_));
        let first = claim(&path, at_once).unwrap();
        assert!(matches!(first, Claim::New(_)));
        assert!(!is_new(at_once) && !is_new(later));
        drop(first);
        assert!(is_new(later));
        // And now it was one that outlives its process.
        assert!(!is_new(later));
        assert!(is_new(at_once));
    }

    #[test]
    fn only_what_is_old_and_nobodys_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in ["old", "held", "new"] {
            fs::write(at(name), "shown\n").unwrap();
        }
        let long_ago = std::time::SystemTime::now() - 2 * MAX_FILE_AGE;
        for name in ["old", "held"] {
            let file = File::options().append(true).open(at(name)).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        let held = open_lock(&at("held")).unwrap();
        try_flock(&held).unwrap();
        sweep(temp.path());
        assert_eq!(
            ["old", "held", "new"].map(|name| at(name).exists()),
            [false, true, true]
        );
    }

    #[test]
    fn measures_make_no_other_message_and_hosts_do() {
        let same = |a, b| without_measurements(a) == without_measurements(b);
        assert!(same(
            "h: no answer within 7.9 s, connecting",
            "h: no answer within 8.1 s, connecting"
        ));
        assert!(same(
            "h: too slow: 12 bytes in 9 s",
            "h: too slow: 4096 bytes in 10 s"
        ));
        assert!(!same(
            "127.0.0.1:22: connection refused",
            "127.0.0.1:23: connection refused"
        ));
        assert!(!same(
            "1 of 2 hosts gave no answer",
            "2 of 2 hosts gave no answer"
        ));
    }
}
