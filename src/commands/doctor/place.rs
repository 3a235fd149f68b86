//! Where the program of a host is, and which it is: asked of the account's shell, where it has one.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::commands::shared::cut;
use crate::config::Host;
use crate::transport::{Program, Transport};

/// How much is read of what the shell prints, in bytes: start-up files of login shells print too.
const PRINTED: u64 = 64 << 10;

/// How much of an answer is shown, in characters.
const SHOWN: usize = 200;

/// Marks the lines that are answers.
const MARK: &str = "ssh-substituter-doctor:";

/// What the shell said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The program's path.
    pub(super) path: Option<String>,
    /// What it says of its version.
    pub(super) version: Option<String>,
    /// `NIX_STORE_DIR` there, where it is set.
    pub(super) store_dir: Option<String>,
}

/// Asks, for at most `limit`. Nothing is known of a host whose shell does not answer.
pub(super) async fn find(
    transport: &dyn Transport,
    host: &Host,
    in_usual_places: bool,
    limit: Duration,
) -> Place {
    let asked = timeout(limit, ask(transport, host, in_usual_places)).await;
    asked.ok().flatten().unwrap_or_default()
}

async fn ask(transport: &dyn Transport, host: &Host, in_usual_places: bool) -> Option<Place> {
    let mut channel = transport.open(host, Program::Shell).await.ok()?;
    let script = script(host, in_usual_places);
    channel.stdin.write_all(script.as_bytes()).await.ok()?;
    channel.stdin.shutdown().await.ok()?;
    let mut printed = Vec::new();
    let mut stdout = channel.stdout.take(PRINTED);
    stdout.read_to_end(&mut printed).await.ok()?;
    Some(Place::read(&String::from_utf8_lossy(&printed)))
}

fn script(host: &Host, in_usual_places: bool) -> String {
    let words = host.remote_program.iter().map(|word| quoted(word));
    let words: Vec<String> = words.collect();
    let path = match in_usual_places {
        true => {
            "PATH=\"$PATH:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:$HOME/.nix-profile/bin\"; export PATH\n"
        }
        false => "",
    };
    let (first, all) = (&words[0], words.join(" "));
    format!(
        "{path}cd /\n\
         printf '\\n{MARK}path %s\\n' \"$(command -v {first})\"\n\
         printf '{MARK}store %s\\n' \"$NIX_STORE_DIR\"\n\
         printf '{MARK}version %s\\n' \"$({all} --version </dev/null 2>/dev/null | head -n 1)\"\n"
    )
}

/// Hosts have no words that would not be themselves between single quotes.
fn quoted(word: &str) -> String {
    match word.strip_prefix("~/") {
        Some(rest) => format!("~/'{rest}'"),
        None => format!("'{word}'"),
    }
}

impl Place {
    fn read(printed: &str) -> Self {
        let said = |what: &str| {
            let start = format!("{MARK}{what} ");
            let line = printed.lines().find_map(|line| line.strip_prefix(&start))?;
            Some(cut(line, SHOWN)).filter(|text| !text.is_empty())
        };
        Self {
            path: said("path"),
            version: said("version"),
            store_dir: said("store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(program: &str) -> Place {
        let host = Host::parse(&format!("ssh://h?remote-program={program}")).unwrap();
        let script = format!("echo Welcome; {}", script(&host, true));
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("NIX_STORE_DIR", "/a b/store");
        let output = command.output().unwrap();
        Place::read(&String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_shell_tells_where_a_program_is_and_which() {
        let place = run("ls");
        assert!(place.path.unwrap().ends_with("/ls"));
        assert!(place.version.unwrap().starts_with("ls (GNU"));
        assert_eq!(place.store_dir.as_deref(), Some("/a b/store"));
        let place = run("no-such-program%20here");
        assert_eq!((place.path, place.version), (None, None));
        assert_eq!(Place::read("command not found\n"), Place::default());
    }
}
