//! Connections for one client of ours alone: those that an agent of that client's has opened.
//!
//! Their files in the runtime folder are called `0PIDHASH`, where PID is the client's process in hexadecimal.
//! (Other names begin with a letter or a digit from 2 on.) There is a new name for each client, so that
//! what is left of those that have gone is removed.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::sweep::is_dead;

/// How such names begin.
const MARK: char = '0';

/// Hexadecimal digits of a process id; Linux has none above 2^22.
const DIGITS: usize = 6;

/// Characters of the usual name that are kept, so that both kinds have the same length.
const KEPT: usize = 9;

/// The process that started us, told apart from all others that are, were and will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallingProcess {
    pid: u32,
    /// When it began, in ticks since the machine did.
    began: String,
}

impl CallingProcess {
    /// That of this process. Nix 1.x's daemon has one for each client, which starts all our processes
    /// for that client.
    #[must_use]
    pub fn of_process() -> Self {
        let parent = rustix::process::getppid();
        let parent = parent.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        // Who has lost its parent has got one that it shares with everybody.
        let pid = parent.filter(|pid| *pid > 1);
        let pid = pid.unwrap_or_else(std::process::id);
        let began = began(pid).unwrap_or_default();
        Self { pid, began }
    }

    /// What decides whose connection it is, as a text.
    pub(super) fn identity(&self) -> String {
        format!("{} {}", self.pid, self.began)
    }

    /// A name of this client's own in place of `name`.
    pub(super) fn mark(&self, name: &str) -> String {
        let kept: String = name.chars().take(KEPT).collect();
        format!("{MARK}{:0DIGITS$x}{kept}", self.pid & 0xff_ffff)
    }
}

/// Removes what clients have left that have gone. What cannot be removed stays.
pub(super) fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name.to_str().and_then(pid);
        if pid.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            continue;
        }
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        // A living ssh removes its socket itself, within half a minute.
        if !is_socket || is_dead(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn pid(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(MARK)?.get(..DIGITS)?;
    u32::from_str_radix(digits, 16).ok()
}

/// proc(5), field 22 of `stat`.
fn began(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_calling_process_is_the_same_each_time_and_no_other() {
        let one = CallingProcess::of_process();
        assert_eq!(one, CallingProcess::of_process());
        assert!(one.began.parse::<u64>().unwrap() > 0);
        assert_eq!(began(u32::MAX), None);
        let name = one.mark("abcdefghijklmnop");
        assert_eq!(name.len(), 16);
        assert_eq!(pid(&name), Some(one.pid));
        assert_eq!(pid("abcdefghijklmnop-0.lock"), None);
        assert_eq!(pid("0é"), None);
    }

    #[test]
    fn what_is_left_of_those_that_have_gone_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let own = format!("0{:06x}abcdefghi-0.lock", std::process::id());
        // No process has this number: it is above the limit.
        let gone = ["0ffffffabcdefghi-0.log", "0ffffffabcdefghi.known"];
        let stays = [own.as_str(), "abcdefghijklmnop-0.lock", "0", "0zzzzzzabc"];
        for name in gone.iter().chain(&stays) {
            fs::write(at(name), "").unwrap();
        }
        let living = UnixListener::bind(at("0ffffffabcdefghi-1")).unwrap();
        drop(UnixListener::bind(at("0ffffffabcdefghi-2")).unwrap());
        sweep(temp.path());
        for name in gone.iter().chain(&["0ffffffabcdefghi-2"]) {
            assert!(!at(name).exists(), "{name}");
        }
        for name in stays.iter().chain(&["0ffffffabcdefghi-1"]) {
            assert!(at(name).exists(), "{name}");
        }
        drop(living);
    }
}
