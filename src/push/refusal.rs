//! What a host meant that ended while it was busy with a path. `nix-store --serve` has no reply for a refusal: it prints the
//! reason on stderr and ends.
//!
//! The words are those of Nix 2.0 to 2.35 and of the system.

use crate::config::host::SshTarget;

/// What became of the path that the host was busy with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is refused; others may be taken. What the host said, and what to do about it.
    Path {
        reason: String,
        hint: Option<String>,
        /// It has no signature that counts there: neither have others that are signed by the same keys.
        unsigned: bool,
    },
    /// Every path would be refused. What the host said, and what to do about it.
    Host { reason: String, hint: String },
    /// A reference of it is not valid there (any more).
    Reference { reason: String },
}

/// Why the whole host can take nothing, by what it says.
const OF_HOST: [(&str, &str); 7] = [
    (
        "no space left",
        "make room there, with nix-collect-garbage for one; what has come is kept",
    ),
    (
        "disk is full",
        "make room there, with nix-collect-garbage for one; what has come is kept",
    ),
    ("quota exceeded", "make room there; what has come is kept"),
    (
        "paths is not allowed",
        "the account there starts nix-store --serve without --write: put --write behind it where it stands (authorized_keys, ForceCommand), or on NixOS set nix.sshServe.write = true",
    ),
    (
        "read-only file system",
        "the store there cannot be written to: see where it is mounted",
    ),
    (
        "permission denied",
        "the account there may not write to the store: log in as a user who may, or set remote-store=daemon in the host's URL",
    ),
    (
        "is not in the nix store",
        "the store there is in another folder than the paths that are sent: name the right store with remote-store in the host's URL",
    ),
];

/// Why the account cannot reach a store at all.
const OF_DAEMON: [&str; 3] = [
    "cannot connect to",
    "cannot open connection to remote store",
    "unable to open database",
];

/// What the stderr of a host that ended says; `None` when it says nothing of a refusal: the link or the process was lost.
pub(super) fn read(host: &str, stderr: &str) -> Option<Refusal> {
    let reason = reason(stderr)?;
    let said = reason.to_lowercase();
    if said.contains("signature") && (said.contains("lacks") || said.contains("not signed")) {
        let target = SshTarget::of(host);
        let hint = format!(
            "sign it with --sign FILE or push-signing-key by a key in trusted-public-keys of the nix.conf there, or log in as a user in its trusted-users ('{}' shows both)",
            target.ssh("nix show-config")
        );
        let unsigned = true;
        let hint = Some(hint);
        return Some(Refusal::Path {
            reason,
            hint,
            unsigned,
        });
    }
    if let Some((_, hint)) = OF_HOST.iter().find(|(words, _)| said.contains(words)) {
        let hint = (*hint).to_owned();
        return Some(Refusal::Host { reason, hint });
    }
    if OF_DAEMON.iter().any(|words| said.contains(words)) {
        let target = SshTarget::of(host);
        let hint = format!(
            "the store there cannot be reached: '{}' tells more",
            target.ssh("nix-store --version; ls -ld /nix/var/nix/db /nix/var/nix/daemon-socket")
        );
        return Some(Refusal::Host { reason, hint });
    }
    if said.contains("is not valid") || said.contains("is not a valid store path") {
        return Some(Refusal::Reference { reason });
    }
    let hint = said.contains("mismatch").then(|| {
        "its content here is not what was registered: 'nix-store --verify-path' tells, 'nix-store --repair-path' mends it".to_owned()
    });
    let unsigned = false;
    Some(Refusal::Path {
        reason,
        hint,
        unsigned,
    })
}

/// The last line that Nix begins with `error:`, with those that belong to it.
fn reason(stderr: &str) -> Option<String> {
    let begin = stderr.rfind("error:")?;
    let text = &stderr[begin + "error:".len()..];
    let words: Vec<_> = text.split_whitespace().collect();
    let said: String = words.join(" ").chars().take(500).collect();
    // A link that breaks shows like this at the other end.
    let is_of_link = [
        "unexpected end-of-file",
        "unexpected EOF",
        "Broken pipe",
        "interrupted by the user",
    ]
    .iter()
    .any(|words| said.contains(words));
    (!said.is_empty() && !is_of_link).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_here(stderr: &str) -> Option<Refusal> {
        read("host", stderr)
    }

    #[test]
    fn what_nix_says_of_a_path_is_about_that_path() {
        for stderr in [
            "error: cannot add path '/nix/store/x-a' because it lacks a valid signature\n",
            "error: cannot add path '/nix/store/x-a' because it lacks a signature by a trusted key\n",
        ] {
            let Some(Refusal::Path { hint, unsigned, .. }) = read_here(stderr) else {
                panic!("{stderr}");
            };
            assert!(unsigned && hint.is_some_and(|hint| hint.contains("--sign")));
        }
        let stderr = "warning: x\nerror: hash mismatch importing path '/nix/store/x-a';\n  specified: a\n  got: b\n";
        let Some(Refusal::Path {
            reason,
            unsigned: false,
            ..
        }) = read_here(stderr)
        else {
            panic!("{stderr}");
        };
        assert!(reason.ends_with("specified: a got: b"), "{reason}");
        assert!(matches!(
            read_here("error: path '/nix/store/x-a' is not valid"),
            Some(Refusal::Reference { .. })
        ));
    }

    #[test]
    fn what_no_path_would_get_past_is_about_the_host() {
        for stderr in [
            "error: writing to file: No space left on device",
            "error: executing SQLite statement: database or disk is full (in '/nix/var/nix/db/db.sqlite')",
            "error: importing paths is not allowed",
            "error: creating directory '/nix/store': Read-only file system",
            "error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Connection refused",
        ] {
            assert!(
                matches!(read_here(stderr), Some(Refusal::Host { .. })),
                "{stderr}"
            );
        }
    }

    #[test]
    fn a_link_that_breaks_refuses_nothing() {
        for stderr in [
            "",
            "Connection closed by remote host",
            "error: unexpected end-of-file",
            "error: writing to file: Broken pipe",
        ] {
            assert_eq!(read_here(stderr), None, "{stderr}");
        }
    }
}
