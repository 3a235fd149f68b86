//! Connections for one client of ours alone: those that an agent of that client's has opened.
//!
//! Their files in the runtime folder are called `0PIDHASH`, where PID is the client's process in hexadecimal.
//! (Other names begin with a letter or a digit from 2 on.) There is a new name for each client, so that
//! what is left of those that have gone is removed.

use std::fs;

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

/// The process that a name was made for by [`CallingProcess::mark`].
pub(super) fn pid_of_name(name: &str) -> Option<u32> {
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
    use super::*;

    #[test]
    fn a_calling_process_is_the_same_each_time_and_no_other() {
        let one = CallingProcess::of_process();
        assert_eq!(one, CallingProcess::of_process());
        assert!(one.began.parse::<u64>().unwrap() > 0);
        assert_eq!(began(u32::MAX), None);
        let name = one.mark("abcdefghijklmnop");
        assert_eq!(name.len(), 16);
        assert_eq!(pid_of_name(&name), Some(one.pid));
        assert_eq!(pid_of_name("abcdefghijklmnop-0.lock"), None);
        assert_eq!(pid_of_name("0é"), None);
    }
}
