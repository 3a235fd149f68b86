//! Asks the shell of an account where its `nix-store` is and which version it has.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::commands::format::shorten;
use crate::config::Host;
use crate::transport::{Program, Transport};

/// How many bytes of output are read: start-up files of login shells print too.
const MAX_OUTPUT: u64 = 64 << 10;

/// How many characters of an answer are shown.
const MAX_ANSWER_CHARS: usize = 200;

/// Begins the lines that are answers.
const ANSWER_PREFIX: &str = "ssh-substituter-doctor:";

/// What the shell answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RemoteProgram {
    /// The program's path.
    pub(super) path: Option<String>,
    /// What it says of its version.
    pub(super) version: Option<String>,
    /// `NIX_STORE_DIR` there, where it is set.
    pub(super) store_dir: Option<String>,
}

async fn ask(
    transport: &dyn Transport,
    host: &Host,
    in_usual_places: bool,
) -> Option<RemoteProgram> {
    let mut channel = transport.open(host, Program::Shell).await.ok()?;
    let script = script(host, in_usual_places);
    channel.stdin.write_all(script.as_bytes()).await.ok()?;
    channel.stdin.shutdown().await.ok()?;
    let mut printed = Vec::new();
    let mut stdout = channel.stdout.take(MAX_OUTPUT);
    stdout.read_to_end(&mut printed).await.ok()?;
    Some(RemoteProgram::parse(&String::from_utf8_lossy(&printed)))
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
         printf '\\n{ANSWER_PREFIX}path %s\\n' \"$(command -v {first})\"\n\
         printf '{ANSWER_PREFIX}store %s\\n' \"$NIX_STORE_DIR\"\n\
         printf '{ANSWER_PREFIX}version %s\\n' \"$({all} --version </dev/null 2>/dev/null | head -n 1)\"\n"
    )
}

/// No word of a host has characters that need escaping between single quotes.
fn quoted(word: &str) -> String {
    match word.strip_prefix("~/") {
        Some(rest) => format!("~/'{rest}'"),
        None => format!("'{word}'"),
    }
}

impl RemoteProgram {
    /// Asks for at most `limit`. Nothing is known of a host whose shell does not answer.
    pub(super) async fn find(
        transport: &dyn Transport,
        host: &Host,
        in_usual_places: bool,
        limit: Duration,
    ) -> Self {
        let asked = timeout(limit, ask(transport, host, in_usual_places)).await;
        asked.ok().flatten().unwrap_or_default()
    }

    fn parse(printed: &str) -> Self {
        let answer = |what: &str| {
            let start = format!("{ANSWER_PREFIX}{what} ");
            let line = printed.lines().find_map(|line| line.strip_prefix(&start))?;
            Some(shorten(line, MAX_ANSWER_CHARS)).filter(|text| !text.is_empty())
        };
        Self {
            path: answer("path"),
            version: answer("version"),
            store_dir: answer("store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(program: &str) -> RemoteProgram {
        let host = Host::parse(&format!("ssh://h?remote-program={program}")).unwrap();
        let script = format!("echo Welcome; {}", script(&host, true));
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("NIX_STORE_DIR", "/a b/store");
        let output = command.output().unwrap();
        RemoteProgram::parse(&String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_shell_tells_where_a_program_is_and_which() {
        let program = run("ls");
        assert!(program.path.unwrap().ends_with("/ls"));
        assert!(program.version.unwrap().starts_with("ls (GNU"));
        assert_eq!(program.store_dir.as_deref(), Some("/a b/store"));
        let program = run("no-such-program%20here");
        assert_eq!((program.path, program.version), (None, None));
        assert_eq!(
            RemoteProgram::parse("command not found\n"),
            RemoteProgram::default()
        );
    }
}
