//! What `status` and `doctor` show of ssh connections: how many are open, and the command for logging in by
//! hand with the same options.

use std::ffi::OsString;
use std::path::Path;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::master::is_answering;
use super::ssh::arguments::{self, MasterFiles};
use super::ssh::ciphers;
use super::ssh::config::SSH_CONFIG_TIMEOUT;
use super::{MAX_MASTERS, SshSettings};
use crate::config::host::Host;
use crate::transport::TransportError;
use crate::transport::runtime_dir::Environment;

/// Options that only a master in the background needs.
const MASTER_ONLY_OPTIONS: [&str; 2] = ["ControlMaster=", "ControlPersist="];

/// How many ssh connections to this host, with these settings, are open and answer, whichever process
/// of this user made them. Takes at most two seconds.
///
/// # Errors
/// When there is no private folder.
pub async fn count_masters(host: &Host, settings: &SshSettings) -> Result<usize, TransportError> {
    let folder = Environment::of_process(settings.runtime_dir.as_deref()).runtime_dir()?;
    let name = arguments::connection_name(host, settings);
    let mut asked = JoinSet::new();
    for index in 0..MAX_MASTERS {
        let socket = folder.join(format!("{name}-{index}"));
        if !socket.exists() {
            continue;
        }
        asked.spawn(async move { is_answering(&socket).await });
    }
    Ok(asked
        .join_all()
        .await
        .into_iter()
        .filter(|yes| *yes)
        .count())
}

/// A command line for a shell that logs in to `host` with the options used here, verbosely, and runs `true`
/// there. Takes at most half a second.
pub async fn login_command(host: &Host, settings: &SshSettings) -> String {
    let folder = Environment::of_process(settings.runtime_dir.as_deref()).runtime_dir();
    let name = arguments::connection_name(host, settings);
    let known = folder.map(|folder| folder.join(format!("{name}.known")));
    let known = known.ok().filter(|_| host.public_host_key.is_some());
    let nowhere = Path::new("/dev/null");
    let paths = MasterFiles {
        socket: nowhere,
        log: nowhere,
        known_hosts: known.as_deref(),
    };
    let ciphers = timeout(SSH_CONFIG_TIMEOUT, ciphers::option(host, settings)).await;
    let mut words: Vec<OsString> = Vec::new();
    if let Some(socket) = &settings.auth_sock {
        let mut word = OsString::from("SSH_AUTH_SOCK=");
        word.push(socket);
        words.extend(["env".into(), word]);
    }
    words.extend([settings.program.clone().into(), "-v".into()]);
    for option in ciphers.ok().flatten().as_slice() {
        words.extend(["-o".into(), option.into()]);
    }
    words.extend(by_hand(arguments::master_arguments(host, settings, &paths)));
    words.push("true".into());
    let words = words.iter().map(|word| quoted(&word.to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

/// For a shell. Most options hold a `=`, which is no reason to quote them.
fn quoted(word: &str) -> String {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match is_plain {
        true => format!("{name}={}", shell_words::quote(&word[name.len() + 1..])),
        false => shell_words::quote(word).into_owned(),
    }
}

/// The words of a master's command line without what makes it one.
fn by_hand(words: Vec<OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    // The last words are `-E LOG -S SOCKET -- HOST`, and no value of an option before looks like `-E`.
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-N" | "-f") => {}
            Some("-E" | "-S") => drop(words.next()),
            Some("-o") => {
                let value = words.next().unwrap_or_default();
                let text = value.to_string_lossy();
                if !MASTER_ONLY_OPTIONS
                    .iter()
                    .any(|option| text.starts_with(option))
                {
                    kept.extend([word, value]);
                }
            }
            Some("--") => kept.extend(["-o".into(), "ControlPath=none".into(), word]),
            _ => kept.push(word),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_login_by_hand_has_the_same_options_and_leaves_connections_alone() {
        let host = Host::parse("ssh://u@h:2222?ssh-key=/a%20b&compress=true").unwrap();
        let settings = SshSettings {
            program: "/no/ssh".into(),
            ssh_options: vec!["-F".into(), "/my config".into()],
            auth_sock: Some("/sock".into()),
            ..SshSettings::default()
        };
        let command = login_command(&host, &settings).await;
        assert!(
            command.starts_with("env SSH_AUTH_SOCK=/sock /no/ssh -v -o "),
            "{command}"
        );
        assert!(
            command.ends_with("-o ControlPath=none -- h true"),
            "{command}"
        );
        for word in [
            " -o BatchMode=yes ",
            " -i '/a b' -p 2222 -l u -C -F '/my config' ",
            " -o ConnectTimeout=8 ",
        ] {
            assert!(command.contains(word), "no {word}: {command}");
        }
        for word in [
            " -N",
            " -f",
            " -E",
            " -S",
            "ControlMaster",
            "ControlPersist",
        ] {
            assert!(!command.contains(word), "{word}: {command}");
        }
    }
}
