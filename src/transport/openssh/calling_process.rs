//! Connections for one client alone: those that were opened with that client's ssh agent.
//!
//! Their files in the runtime folder are called `0PIDHASH`, where PID is the client's process id in
//! hexadecimal. (Other names begin with a letter or a digit from 2 on.) The name differs for each client, so
//! the files of clients that have ended can be found and removed.

use crate::sys::processes;

/// How such names begin.
const CLIENT_PREFIX: char = '0';

/// Hexadecimal digits of a process id; Linux has none above 2^22.
const PID_HEX_DIGITS: usize = 6;

/// Characters of the usual name that are kept, so that both kinds have the same length.
const KEPT_NAME_LEN: usize = 9;

/// The process that started us. The start time tells it from others that had or will have its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallingProcess {
    pid: u32,
    /// When it was started.
    start: String,
}

impl CallingProcess {
    /// The parent of this process. Nix 1.x's daemon forks one process for each client, which starts all
    /// our processes for that client.
    #[must_use]
    pub fn of_process() -> Self {
        let parent = rustix::process::getppid();
        let parent = parent.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        // An orphan's parent is process 1, which all orphans share.
        let pid = parent.filter(|pid| *pid > 1);
        let pid = pid.unwrap_or_else(std::process::id);
        let start = processes::start_of(pid).unwrap_or_default();
        Self { pid, start }
    }

    /// What decides whose connection it is, as a text.
    pub(super) fn identity(&self) -> String {
        format!("{} {}", self.pid, self.start)
    }

    /// The name in place of `name` for files of this client alone.
    pub(super) fn client_name(&self, name: &str) -> String {
        let kept: String = name.chars().take(KEPT_NAME_LEN).collect();
        format!(
            "{CLIENT_PREFIX}{:0PID_HEX_DIGITS$x}{kept}",
            self.pid & 0xff_ffff
        )
    }
}

/// The process that a name was made for by [`CallingProcess::client_name`].
pub(super) fn pid_of_name(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(CLIENT_PREFIX)?.get(..PID_HEX_DIGITS)?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calling_process_is_the_same_each_time_and_no_other() {
        let one = CallingProcess::of_process();
        assert_eq!(one, CallingProcess::of_process());
        assert!(!one.start.is_empty());
        let name = one.client_name("abcdefghijklmnop");
        assert_eq!(name.len(), 16);
        assert_eq!(pid_of_name(&name), Some(one.pid));
        assert_eq!(pid_of_name("abcdefghijklmnop-0.lock"), None);
        assert_eq!(pid_of_name("0é"), None);
    }
}
