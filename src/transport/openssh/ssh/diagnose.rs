//! Finds the kind of a failure in what ssh printed.
//!
//! ssh knows one exit status for all failures (255) and prints one line or several. They are never
//! translated: ssh sets its locale for character types only (`msetlocale`), so `LC_ALL` is left as
//! it is (which also keeps `SendEnv LC_*` true to the user's locale).

use std::time::Duration;

use crate::config::host::Host;
use crate::transport::{Phase, TransportError, TransportErrorKind as Kind};

/// The error that `ssh_output` describes. `after` is how long ssh ran before it gave up, `limit` the configured limit.
pub(in crate::transport::openssh) fn classify(
    host: &Host,
    ssh_output: String,
    (after, limit): (Duration, Option<Duration>),
) -> TransportError {
    let has = |needles: &[&str]| needles.iter().any(|needle| ssh_output.contains(needle));
    // The most telling first: with a jump host, ssh prints the jump's failure and then its own
    // "Connection closed by UNKNOWN".
    let kind = if has(&[
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "has changed and you have requested strict checking",
        "REVOKED HOST KEY",
        "marked as revoked",
    ]) {
        Kind::HostKeyChanged {
            pinned: host.public_host_key.is_some(),
        }
    } else if has(&[
        "Host key verification failed",
        "you have requested strict checking",
    ]) {
        Kind::HostKeyUnknown
    } else if has(&["No user exists for uid"]) {
        Kind::NoUser(rustix::process::getuid().as_raw())
    } else if let Some(methods) = denied(&ssh_output) {
        Kind::PermissionDenied {
            methods,
            identity: host.ssh_key.clone(),
            tried: Vec::new(),
        }
    } else if let Some(name) = unresolved(&ssh_output) {
        Kind::HostNameUnknown(name)
    } else if has(&["Connection refused"]) {
        Kind::Refused
    } else if has(&[
        "No route to host",
        "Network is unreachable",
        "Network is down",
        "Host is down",
        "Cannot assign requested address",
    ]) {
        Kind::Unreachable
    } else if has(&[
        "timed out",
        "Timeout, server",
        "Connection to UNKNOWN port 65535 timed out",
    ]) {
        Kind::TimedOut {
            after,
            limit,
            phase: Phase::Connect,
        }
    } else if has(&[
        "Connection closed by",
        "Connection reset by",
        "Connection to ",
        "Broken pipe",
        "Not allowed at this time",
        "Exceeded MaxStartups",
    ]) {
        Kind::Disconnected
    } else {
        Kind::Other(first_line(&ssh_output).to_owned())
    };
    TransportError::new(host, kind).with_output(ssh_output)
}

/// `user@host: Permission denied (publickey,password).`
fn denied(ssh_output: &str) -> Option<Vec<String>> {
    if ssh_output.contains("Too many authentication failures") {
        return Some(Vec::new());
    }
    // The last one: an earlier one may be about a key file ("Load key …: Permission denied").
    let (_, rest) = ssh_output.rsplit_once("Permission denied (")?;
    let (methods, _) = rest.split_once(')')?;
    Some(methods.split(',').map(str::to_owned).collect())
}

/// `ssh: Could not resolve hostname NAME: Name or service not known`
fn unresolved(ssh_output: &str) -> Option<String> {
    let (_, rest) = ssh_output.split_once("Could not resolve hostname ")?;
    let line = rest.lines().next().unwrap_or(rest);
    let name = line.rsplit_once(": ").map_or(line, |(name, _)| name);
    Some(name.to_owned())
}

fn first_line(ssh_output: &str) -> &str {
    ssh_output
        .lines()
        .find(|line| !line.is_empty())
        .unwrap_or("ssh failed without a message")
}

#[cfg(test)]
mod tests {
    use super::super::master_log::clean;
    use super::*;

    fn kind(text: &str) -> TransportError {
        let host = Host::parse("ssh://h?ssh-key=/key").unwrap();
        classify(&host, clean(text), (Duration::from_secs(5), None))
    }

    const CHANGED: &str = "@@@@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n@@@@@\r\nHost key verification failed.\r\n";

    // The texts are what OpenSSH 9.2 prints.
    #[test]
    fn the_words_of_ssh_become_kinds() {
        for (text, is_it) in [
            (
                "ssh: Could not resolve hostname nosuch.invalid: Name or service not known\r\n",
                (|kind| matches!(kind, Kind::HostNameUnknown(name) if name == "nosuch.invalid"))
                    as fn(&Kind) -> bool,
            ),
            (
                "ssh: connect to host 127.0.0.1 port 1: Connection refused\r\n",
                |kind| matches!(kind, Kind::Refused),
            ),
            (
                "ssh: connect to host h port 22: No route to host\r\n",
                |kind| matches!(kind, Kind::Unreachable),
            ),
            (
                "ssh: connect to host h port 22: Connection timed out\r\n",
                |kind| {
                    matches!(
                        kind,
                        Kind::TimedOut {
                            phase: Phase::Connect,
                            ..
                        }
                    )
                },
            ),
            ("Host key verification failed.\r\n", |kind| {
                matches!(kind, Kind::HostKeyUnknown)
            }),
            (
                "No ED25519 host key is known for h and you have requested strict checking.\r\nHost key verification failed.\r\n",
                |kind| matches!(kind, Kind::HostKeyUnknown),
            ),
            (CHANGED, |kind| matches!(kind, Kind::HostKeyChanged { .. })),
            (
                "Load key \"/key\": Permission denied\r\nroot@h: Permission denied (publickey,password).\r\n",
                |kind| {
                    matches!(kind, Kind::PermissionDenied { methods, identity: Some(_), .. }
                    if methods == &["publickey", "password"])
                },
            ),
            (
                "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by UNKNOWN port 65535\r\n",
                |kind| matches!(kind, Kind::Disconnected),
            ),
            ("No user exists for uid 54321\r\n", |kind| {
                matches!(kind, Kind::NoUser(_))
            }),
            (
                "Can't open user config file /none: No such file or directory\r\n",
                |kind| matches!(kind, Kind::Other(_)),
            ),
        ] {
            let found = kind(text).kind;
            assert!(is_it(&found), "{text}: {found:?}");
        }
        assert!(kind(CHANGED).ssh_output.starts_with("WARNING: "));
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
}
