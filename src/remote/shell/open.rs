//! Opens a shell on a host, and makes it prove that it is one.
//!
//! Where an account has no shell, something else gets what is written here: a serve loop behind a
//! forced command takes it for a wrong magic number and ends, git-shell and the like do not even
//! start. What answers is a shell only if it multiplies two numbers and joins two halves of a nonce,
//! which no echo does, and is used only if its tools do on small inputs what they are needed for.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::command::{NONCE, dd};
use super::store_locations::{StoreLocations, StoreSettings};
use super::{Shell, listing};
use crate::config::host::Host;
use crate::remote::link::{EXIT_TIMEOUT, Link, TRANSPORT_GRACE};
use crate::remote::{RemoteError, RemoteErrorKind};
use crate::transport::{Program, Transport};
use crate::wire::nar::layout::EntryKind;

const PROOF_REPLY: &str = "the proof of a shell";

/// How much may be printed before the proof, in bytes: start-up files of login shells do.
const BANNER_MAX: usize = 64 << 10;

/// The longest proof in bytes, with what the account tells of its store.
const PROOF_MAX: usize = 64 << 10;

/// Prints what may say where the files of a store are. Files are read with what is known to be there.
const SETTINGS: &str = r#"t(){ IFS=' 	';while read -r k q v||[ -n "$k" ];do case "$k$q" in store=)printf '%s\0' "${v%%[ #]*}";;esac;done;}
printf '%s\n' "$NIX_CONFIG"|t
set -f;IFS=:;for f in ${NIX_USER_CONF_FILES:-${XDG_CONFIG_HOME:-$HOME/.config}/nix/nix.conf} "${NIX_CONF_DIR:-/etc/nix}/nix.conf";do [ -f "$f" ]&&head -c 65536 "$f"|t;done;set +f;unset IFS
printf '%s\0%s\0' "$NIX_REMOTE" "${XDG_DATA_HOME:-$HOME/.local/share}/nix/root"
"#;

/// How to open a shell.
#[derive(Debug, Clone, Copy)]
pub struct ShellOptions {
    /// Limit for everything from here to the end of the proof.
    pub connect: Duration,
    /// How long the remote may be silent later on while a reply is outstanding.
    pub silence: Duration,
}

/// An account has no shell that files could be read with.
#[derive(Debug, thiserror::Error)]
#[error("{host}: files cannot be read in chunks: {reason}")]
pub struct NoShell {
    /// The host.
    pub host: String,
    /// Why not.
    pub reason: String,
    /// Whether that will stay so until somebody changes the account: not when nothing came in time.
    pub is_certain: bool,
}

/// Why there is no [`Shell`].
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The host was reached, and has none.
    #[error(transparent)]
    NoShell(#[from] NoShell),
    /// The host failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Opens a shell on `host`.
///
/// # Errors
/// When the host cannot be reached, or has no (usable) shell.
pub async fn open_shell(
    transport: &dyn Transport,
    host: &Host,
    options: &ShellOptions,
) -> Result<Shell, ShellError> {
    let deadline = Instant::now() + options.connect;
    let none = |reason: &str, is_certain| NoShell {
        host: host.to_string(),
        reason: reason.to_owned(),
        is_certain,
    };
    let Some(locations) = StoreLocations::of(host) else {
        let reason = "its remote-store says nothing of where they are";
        return Err(none(reason, true).into());
    };
    let channel = timeout_at(
        deadline + TRANSPORT_GRACE,
        transport.open(host, Program::Shell),
    )
    .await
    .map_err(|_| {
        let (program, after) = ("sh".to_owned(), options.connect);
        RemoteError::new(host, RemoteErrorKind::HandshakeTimedOut { program, after })
    })?
    .map_err(RemoteError::from)?;
    let mut link = Link::new(host, channel, options.silence);
    let proof = Proof::new();
    link.output.send_bytes(proof.script().into_bytes());
    let began = Instant::now();
    loop {
        match proof.step(link.input.peek()) {
            Step::NeedMore => {}
            Step::Proven(settings, has_zstd) => {
                link.input.buffer().clear();
                let locations = locations.with_settings(host, &settings);
                return Ok(Shell::new(link, proof.nonce(), locations, has_zstd));
            }
            Step::Wrong(reason) => return Err(none(reason, true).into()),
        }
        match timeout_at(deadline, link.input.fill()).await {
            Ok(Ok(1..)) => {}
            Err(_) => return Err(none("nothing like a shell answered in time", false).into()),
            Ok(end) => {
                let error = link.ended(PROOF_REPLY, began, end.err()).await;
                if matches!(error.kind, RemoteErrorKind::LinkDead { .. }) {
                    return Err(error.into());
                }
                return Err(match timeout(EXIT_TIMEOUT, link.child.wait()).await {
                    Ok(Some(status)) => {
                        let reason = format!("no shell: exit status {status}");
                        none(&reason, true).into()
                    }
                    // Killed, or the link went away.
                    _ => error.into(),
                });
            }
        }
    }
}

/// A question that only a shell can answer.
struct Proof {
    halves: [String; 2],
    factors: [u64; 2],
}

enum Step {
    NeedMore,
    /// And whether it has `zstd`.
    Proven(StoreSettings, bool),
    Wrong(&'static str),
}

impl Proof {
    fn new() -> Self {
        // The standard library's hasher is keyed at random.
        let random = RandomState::new();
        let number = |index: u64| random.hash_one(index);
        let half = |index| format!("{:016x}", number(index));
        // The product stays below 2^63, which is what shells count to.
        let factor = |index| number(index) % 1_000_000_000 + 1_000_000_000;
        Self {
            halves: [half(0), half(1)],
            factors: [factor(2), factor(3)],
        }
    }

    fn nonce(&self) -> String {
        let nonce = self.halves.concat();
        debug_assert_eq!(nonce.len(), NONCE);
        nonce
    }

    /// Also sets up what later commands rely on: the nonce in `n`, messages and sorting in no
    /// language, the usual places of Nix at the end of PATH. And asks for what may say where the files
    /// of its store are, as Nix's `store` setting is made of (Nix manual, "nix.conf"): each with a zero
    /// byte behind it, as [`StoreSettings::read`] reads it.
    fn script(&self) -> String {
        let ([first, second], [a, b]) = (&self.halves, self.factors);
        let dd = dd();
        format!(
            "n={first};n=\"$n\"{second};e=0\n\
             LC_ALL=C;export LC_ALL\n\
             PATH=\"$PATH:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:$HOME/.nix-profile/bin\";export PATH\n\
             cd /\n\
             printf '=%s %s ' \"$n\" \"$(({a}*{b}))\"\n\
             printf 0123456789|{dd} skip=3 count=4\n\
             printf 0123456789|head -c 2\n\
             printf xyz|cat\n\
             printf ' '\n\
             command -v zstd >/dev/null 2>&1&&printf zstd\n\
             find / -maxdepth 0 -printf ' %y %m %s %P\\0%l\\0'\n\
             {SETTINGS}\
             printf '=%s;' \"$n\"\n"
        )
    }

    fn step(&self, output: &[u8]) -> Step {
        let begin = format!("={} {} ", self.nonce(), self.factors[0] * self.factors[1]);
        let end = format!("={};", self.nonce());
        let Some(at) = find(output, begin.as_bytes()) else {
            if output.len() > BANNER_MAX {
                return Step::Wrong("too much was printed before a shell answered");
            }
            return Step::NeedMore;
        };
        let answer = &output[at + begin.len()..];
        let Some(answer) = answer.strip_suffix(end.as_bytes()) else {
            if answer.len() > PROOF_MAX {
                return Step::Wrong("its tools print too much");
            }
            return Step::NeedMore;
        };
        let answer = answer.strip_prefix(b"345601xyz ").unwrap_or_default();
        let (has_zstd, answer) = match answer.strip_prefix(b"zstd") {
            Some(answer) => (true, answer),
            None => (false, answer),
        };
        let answer = answer.strip_prefix(b" ").unwrap_or_default();
        // A listing of one object is two strings.
        let zeros = answer.iter().enumerate().filter(|(_, byte)| **byte == 0);
        let end = zeros.map(|(at, _)| at + 1).nth(1).unwrap_or_default();
        let (listing, settings) = answer.split_at(end);
        let root = listing::parse(listing, 1).unwrap_or_default();
        match root.as_slice() {
            [root] if root.path.is_empty() && root.kind == EntryKind::Directory => {
                Step::Proven(StoreSettings::read(settings), has_zstd)
            }
            _ => Step::Wrong("its dd, head, cat or find is not like GNU's"),
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn is_proven(proof: &Proof, output: &[u8]) -> bool {
        matches!(proof.step(output), Step::Proven(..))
    }

    /// What a program makes of the script.
    fn run(program: &str, arguments: &[&str], script: &str) -> Vec<u8> {
        use std::io::Write;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(script.as_bytes());
        drop(stdin);
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn a_shell_proves_itself_also_behind_a_banner() {
        let proof = Proof::new();
        let output = run("sh", &[], &proof.script());
        assert!(is_proven(&proof, &output));
        assert!(is_proven(
            &proof,
            &[b"Welcome to =x;\n", &output[..]].concat()
        ));
        for end in 0..output.len() {
            assert!(matches!(proof.step(&output[..end]), Step::NeedMore));
        }
        let another = Proof::new();
        assert!(!is_proven(&another, &output));
        let flood = [&vec![b'x'; BANNER_MAX + 1], &output[..40]].concat();
        assert!(matches!(proof.step(&flood), Step::Wrong(_)));
    }

    #[test]
    fn echoes_and_other_shells_do_not() {
        let proof = Proof::new();
        let script = proof.script();
        for (program, arguments) in [
            ("cat", &[][..]),
            ("tr", &["-d", " "]),
            ("tr", &["-d", "\n"]),
            ("tr", &["-d", "'\"$"]),
            ("true", &[]),
        ] {
            let output = run(program, arguments, &script);
            assert!(!is_proven(&proof, &output), "{program} {arguments:?}");
        }
    }

    #[test]
    fn a_shell_without_the_tools_is_none() {
        let proof = Proof::new();
        for tool in ["dd", "head", "cat", "find"] {
            let without = format!("{tool}() {{ echo; }}\n{}", proof.script());
            let output = run("sh", &[], &without);
            assert!(matches!(proof.step(&output), Step::Wrong(_)), "{tool}");
        }
    }
}
