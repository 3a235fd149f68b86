//! ssh on this machine, and how programs are found and asked for their version.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::time::timeout;

use super::finding::Finding;
use crate::commands::format::shorten;
use crate::config::Config;
use crate::engine::ssh_settings;

const AREA: &str = "Programs";

/// How long a program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The oldest OpenSSH that is supported: `SSH_ASKPASS_REQUIRE` came with it.
const OLDEST_OPENSSH: (u32, u32) = (8, 4);

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let program = ssh_settings(config).program;
    let Some(path) = find(&program) else {
        return vec![Finding::error(
            AREA,
            format!("{} is not in the PATH", program.display()),
            "install OpenSSH's client (openssh-client, openssh), or correct the PATH",
        )];
    };
    let said = first_line_of(&path, &["-V"]).await.unwrap_or_default();
    let name = path.display();
    vec![match version(&said) {
        Some(found) if found < OLDEST_OPENSSH => Finding::warning(
            AREA,
            format!("{name}: {said} is older than 8.4"),
            "update OpenSSH's client",
        ),
        Some(_) => Finding::ok(AREA, format!("{name}: {said}")),
        None => Finding::warning(
            AREA,
            format!("{name}: does not say that it is OpenSSH: {said:?}"),
            "let 'ssh' in the PATH be OpenSSH's: its options and control sockets are used",
        ),
    }]
}

/// `OpenSSH_9.2p1 …`
fn version(said: &str) -> Option<(u32, u32)> {
    let rest = said.strip_prefix("OpenSSH_")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A program: a path, or a name that is looked for in the PATH.
pub(super) fn find(program: &Path) -> Option<PathBuf> {
    let runs = |path: &Path| {
        let meta = std::fs::metadata(path);
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(|path| runs(path));
    }
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.into_iter().find(|path| runs(path))
}

/// The first line that a program prints, on standard output or else on standard error.
pub(super) async fn first_line_of(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(VERSION_TIMEOUT, output).await.ok()?.ok()?;
    let first = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let line = text.lines().next().unwrap_or_default();
        Some(shorten(line, 200)).filter(|line| !line.is_empty())
    };
    first(&output.stdout).or_else(|| first(&output.stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssh_says_its_version() {
        assert_eq!(version("OpenSSH_9.2p1 Debian-2, OpenSSL 3"), Some((9, 2)));
        assert_eq!(version("OpenSSH_10.0"), Some((10, 0)));
        assert_eq!(version("Dropbear v2022.83"), None);
    }
}
