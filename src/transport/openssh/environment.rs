//! What ssh gets to see of our environment, and whose connection it is.
//!
//! Whoever starts us may have an environment full of things: Nix's daemon hands on its whole
//! configuration, a desktop its windows and helpers, a shell what it likes. ssh, and the proxies that
//! it starts, get what they need and no more.

use std::fs;

use tokio::process::Command;

use super::SshSettings;

/// What ssh, the shell that runs its `ProxyCommand` and its Kerberos library go by.
const NEEDED: &[&str] = &[
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "LANG",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "KRB5CCNAME",
    "KRB5_CONFIG",
];

/// The language of messages, in as many variables as there are aspects.
const NEEDED_PREFIX: &str = "LC_";

/// Gives a command that environment, and no other.
pub(super) fn prepare(command: &mut Command, settings: &SshSettings) {
    let is_wanted = |name: &str| {
        NEEDED.contains(&name)
            || name.starts_with(NEEDED_PREFIX)
            || settings.environment.iter().any(|wanted| wanted == name)
    };
    let all = std::env::vars_os();
    command
        .env_clear()
        .envs(all.filter(|(name, _)| name.to_str().is_some_and(is_wanted)))
        // BatchMode keeps ssh itself from asking, but not the ssh that it starts for a jump host:
        // there, every question is answered by a failure instead of a dead wait.
        .env("SSH_ASKPASS", "false")
        .env("SSH_ASKPASS_REQUIRE", "force");
    match &settings.auth_sock {
        Some(socket) => command.env("SSH_AUTH_SOCK", socket),
        None => command.env_remove("SSH_AUTH_SOCK"),
    };
}

/// The process that started us, in a form that no other process has had or will have. Nix 1.x's
/// daemon has one for each client, which starts all of our processes for that client.
#[must_use]
pub fn calling_process() -> String {
    let own = std::process::id();
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    // Who has lost its parent has got one that it shares with everybody.
    let pid = parent.filter(|pid| *pid > 1).unwrap_or(own);
    format!("{pid} {}", began(pid).unwrap_or_else(|| own.to_string()))
}

/// When a process began, in ticks since the machine did (proc(5), field 22 of `stat`).
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
        let one = calling_process();
        assert_eq!(one, calling_process());
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero();
        assert!(
            one.starts_with(&format!("{parent} ")) || parent.get() == 1,
            "{one}"
        );
        let own = began(std::process::id()).unwrap();
        assert!(own.parse::<u64>().unwrap() > 0);
        assert_eq!(began(u32::MAX), None);
    }
}
