//! From what ssh prints to the kind of failure.
//!
//! ssh knows one exit status for all failures (255) and prints one line or several. They are never
//! translated: ssh sets its locale for character types only (`msetlocale`), so `LC_ALL` is left as
//! it is (which also keeps `SendEnv LC_*` true to the user's locale).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use crate::config::host::Host;
use crate::transport::{Phase, TransportError};

/// How much of ssh's output is kept, in bytes.
const SAID_MAX: usize = 2048;

/// How much of the end of the log is looked at, in bytes.
const LOG_MAX: u64 = 64 * 1024;

/// The end of a log, cleaned; empty when there is none.
pub(super) fn read(log: &Path) -> String {
    File::open(log).map_or(String::new(), |file| Log { file, seen: 0 }.read())
}

/// A log that is held open.
pub(super) struct Log {
    file: File,
    /// Where what matters begins, in bytes.
    seen: u64,
}

impl Log {
    /// What will be written to that log from now on.
    pub(super) fn from_now_on(log: &Path) -> Option<Self> {
        let file = File::open(log).ok()?;
        let seen = file.metadata().ok()?.len();
        Some(Self { file, seen })
    }

    /// The end of what has been written so far, cleaned.
    pub(super) fn read(&self) -> String {
        let tail = || {
            let mut file = &self.file;
            let length = file.metadata()?.len();
            let start = length.saturating_sub(LOG_MAX).max(self.seen);
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(LOG_MAX).read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        clean(&String::from_utf8_lossy(&tail().unwrap_or_default()))
    }
}

/// Makes ssh's output fit for a terminal: no control characters or changes of writing direction,
/// no debugging output and frames of `@`, at most [`SAID_MAX`] bytes, of which the last are kept.
fn clean(text: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut size = 0;
    for line in text.lines().rev() {
        let line = line.trim_matches(|c: char| c == '\r' || c == ' ' || c == '@');
        if line.is_empty() || is_debugging(line) {
            continue;
        }
        let line: String = line
            .chars()
            .map(|c| {
                let turns = matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                if c.is_control() || turns { '\u{fffd}' } else { c }
            })
            .collect();
        size += line.len() + 1;
        if size > SAID_MAX {
            break;
        }
        kept.push(line);
    }
    kept.reverse();
    kept.join("\n")
}

fn is_debugging(line: &str) -> bool {
    line.strip_prefix("debug")
        .and_then(|rest| rest.split_once(": "))
        .is_some_and(|(level, _)| level.len() == 1)
}

/// The error that `said` tells of, for an ssh that gave up `after` so long, of the time that is the `limit` for all of it.
pub(super) fn classify(
    host: &Host,
    said: String,
    (after, limit): (Duration, Option<Duration>),
) -> TransportError {
    let has = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    let name = host.to_string();
    // The most telling first: with a jump host, ssh prints the jump's failure and then its own
    // "Connection closed by UNKNOWN".
    if has(&[
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "has changed and you have requested strict checking",
        "REVOKED HOST KEY",
        "marked as revoked",
    ]) {
        TransportError::HostKeyChanged {
            host: name,
            pinned: host.public_host_key.is_some(),
            said,
        }
    } else if has(&[
        "Host key verification failed",
        "you have requested strict checking",
    ]) {
        TransportError::HostKeyUnknown { host: name, said }
    } else if has(&["No user exists for uid"]) {
        TransportError::NoUser {
            host: name,
            uid: rustix::process::getuid().as_raw(),
            said,
        }
    } else if let Some(methods) = denied(&said) {
        TransportError::PermissionDenied {
            host: name,
            methods,
            identity: host.ssh_key.clone(),
            tried: Vec::new(),
            said,
        }
    } else if let Some(unknown) = unresolved(&said) {
        TransportError::HostNameUnknown {
            host: name,
            name: unknown,
            said,
        }
    } else if has(&["Connection refused"]) {
        TransportError::Refused { host: name, said }
    } else if has(&[
        "No route to host",
        "Network is unreachable",
        "Network is down",
        "Host is down",
        "Cannot assign requested address",
    ]) {
        TransportError::Unreachable { host: name, said }
    } else if has(&[
        "timed out",
        "Timeout, server",
        "Connection to UNKNOWN port 65535 timed out",
    ]) {
        TransportError::TimedOut {
            host: name,
            after,
            limit,
            phase: Phase::Connect,
            said,
        }
    } else if has(&[
        "Connection closed by",
        "Connection reset by",
        "Connection to ",
        "Broken pipe",
        "Not allowed at this time",
        "Exceeded MaxStartups",
    ]) {
        TransportError::Disconnected { host: name, said }
    } else {
        TransportError::Other { host: name, said }
    }
}

/// `user@host: Permission denied (publickey,password).`
fn denied(said: &str) -> Option<Vec<String>> {
    if said.contains("Too many authentication failures") {
        return Some(Vec::new());
    }
    // The last one: an earlier one may be about a key file ("Load key …: Permission denied").
    let (_, rest) = said.rsplit_once("Permission denied (")?;
    let (methods, _) = rest.split_once(')')?;
    Some(methods.split(',').map(str::to_owned).collect())
}

/// `ssh: Could not resolve hostname NAME: Name or service not known`
fn unresolved(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("Could not resolve hostname ")?;
    let line = rest.lines().next().unwrap_or(rest);
    let name = line.rsplit_once(": ").map_or(line, |(name, _)| name);
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> TransportError {
        let host = Host {
            name: "h".into(),
            user: None,
            port: None,
            ssh_key: Some("/key".into()),
            public_host_key: None,
            compress: false,
            remote_program: Vec::new(),
            remote_store: None,
            trusted: false,
            priority: None,
            max_connections: 1,
        };
        classify(&host, clean(text), (Duration::from_secs(5), None))
    }

    // The texts are what OpenSSH 9.2 prints.
    #[test]
    fn the_words_of_ssh_become_kinds() {
        use TransportError as E;
        assert!(matches!(
            kind("ssh: Could not resolve hostname nosuch.invalid: Name or service not known\r\n"),
            E::HostNameUnknown { name, .. } if name == "nosuch.invalid"
        ));
        assert!(matches!(
            kind("ssh: connect to host 127.0.0.1 port 1: Connection refused\r\n"),
            E::Refused { .. }
        ));
        assert!(matches!(
            kind("ssh: connect to host h port 22: No route to host\r\n"),
            E::Unreachable { .. }
        ));
        assert!(matches!(
            kind("ssh: connect to host h port 22: Connection timed out\r\n"),
            E::TimedOut {
                phase: Phase::Connect,
                ..
            }
        ));
        assert!(matches!(
            kind("Host key verification failed.\r\n"),
            E::HostKeyUnknown { .. }
        ));
        assert!(matches!(
            kind(
                "No ED25519 host key is known for h and you have requested strict checking.\r\nHost key verification failed.\r\n"
            ),
            E::HostKeyUnknown { .. }
        ));
        assert!(matches!(
            kind(
                "@@@@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n@@@@@\r\nHost key verification failed.\r\n"
            ),
            E::HostKeyChanged { said, .. } if said.starts_with("WARNING: ")
        ));
        assert!(matches!(
            kind("Load key \"/key\": Permission denied\r\nroot@h: Permission denied (publickey,password).\r\n"),
            E::PermissionDenied { methods, identity: Some(_), .. } if methods == ["publickey", "password"]
        ));
        assert!(matches!(
            kind(
                "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by UNKNOWN port 65535\r\n"
            ),
            E::Disconnected { .. }
        ));
        assert!(matches!(
            kind("No user exists for uid 54321\r\n"),
            E::NoUser { .. }
        ));
        assert!(matches!(
            kind("Can't open user config file /none: No such file or directory\r\n"),
            E::Other { .. }
        ));
        assert_eq!(kind("").to_string(), "h: ssh failed without a message");
    }

    #[test]
    fn a_jump_hosts_failure_comes_before_what_follows_from_it() {
        let error = kind(
            "ssh: Could not resolve hostname jump: Name or service not known\r\nkex_exchange_identification: Connection closed by remote host\r\nConnection closed by UNKNOWN port 65535\r\n",
        );
        assert_eq!(
            error.to_string(),
            "h: the host name 'jump' cannot be resolved"
        );
    }

    #[test]
    fn output_is_made_harmless_and_short() {
        let said = clean("debug1: noise\r\n\x1b[31mred\x07\r\nabc\u{202e}def\n");
        assert_eq!(said, "\u{fffd}[31mred\u{fffd}\nabc\u{fffd}def");
        let long = "line of text\n".repeat(1000) + "last";
        let said = clean(&long);
        assert!(said.len() <= SAID_MAX && said.ends_with("\nlast"));
        // One endless line is cut away rather than kept.
        assert_eq!(clean(&"x".repeat(100_000)), "");
    }

    #[test]
    fn a_log_is_read_from_where_it_stood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "Warning: added a key\n").unwrap();
        let log = Log::from_now_on(&path).unwrap();
        assert_eq!(log.read(), "");
        let mut file = File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"Timeout\r\n").unwrap();
        // The next master puts another one in its place.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            (log.read(), log.read()),
            ("Timeout".into(), "Timeout".into())
        );
    }
}
