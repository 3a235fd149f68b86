//! The command line of a master, and the short name that stands for it.
//!
//! ssh takes the first value it meets for nearly every option: command line before configuration
//! files, left before right. So what must hold comes first, then `NIX_SSHOPTS`, then what is only
//! better than ssh's own defaults. `-S` alone is different (the last one wins) and comes last.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::relative_paths;
use crate::config::host::Host;
use crate::transport::openssh::{CallingProcess, SshSettings};

/// Options that must hold, whatever the user's configuration says.
const FIXED: &[&str] = &[
    // Not the user's ControlPath: that socket is not ours to watch and replace.
    "ControlMaster=yes",
    // There is no terminal to ask on.
    "BatchMode=yes",
    // Forwardings belong to the user's own sessions: a second one would fail or steal them.
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
];

/// Options that must also hold when the host's key is given: no other key may be accepted.
const PINNED: &[&str] = &[
    "GlobalKnownHostsFile=/dev/null",
    "StrictHostKeyChecking=yes",
    "VerifyHostKeyDNS=no",
    "NoHostAuthenticationForLocalhost=no",
    "UpdateHostKeys=no",
];

/// Options that replace ssh's defaults and the user's configuration, but not `NIX_SSHOPTS`. With a lower
/// log level, failures could not be diagnosed.
const PREFERRED: &[&str] = &["ServerAliveCountMax=3", "LogLevel=INFO"];

/// The files of one master, all in the runtime folder.
pub(in crate::transport::openssh) struct MasterFiles<'a> {
    pub(in crate::transport::openssh) socket: &'a Path,
    pub(in crate::transport::openssh) log: &'a Path,
    pub(in crate::transport::openssh) known_hosts: Option<&'a Path>,
}

/// The words after `ssh`.
pub(in crate::transport::openssh) fn master_arguments(
    host: &Host,
    settings: &SshSettings,
    paths: &MasterFiles<'_>,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["-N".into(), "-f".into()];
    let option = |words: &mut Vec<OsString>, value: &OsStr| {
        words.push("-o".into());
        words.push(value.to_owned());
    };
    for value in FIXED {
        option(&mut words, value.as_ref());
    }
    let idle = settings.idle_timeout.as_secs().max(1);
    option(&mut words, format!("ControlPersist={idle}").as_ref());
    if let Some(known_hosts) = paths.known_hosts {
        let mut value = OsString::from("UserKnownHostsFile=");
        value.push(known_hosts);
        option(&mut words, &value);
        for value in PINNED {
            option(&mut words, value.as_ref());
        }
    }
    if let Some(key) = &host.ssh_key {
        words.extend(relative_paths::identity(key));
    }
    if let Some(port) = host.port {
        words.push("-p".into());
        words.push(port.to_string().into());
    }
    if let Some(user) = &host.user {
        words.push("-l".into());
        words.push(user.into());
    }
    if host.compress {
        words.push("-C".into());
    }
    // A second -M would mean "ask before each session".
    let theirs = settings.ssh_options.iter().filter(|word| *word != "-M");
    words.extend(theirs.map(OsString::from));
    if let Some(seconds) = connect_timeout(settings.connect_timeout) {
        option(&mut words, format!("ConnectTimeout={seconds}").as_ref());
    }
    let alive = alive_interval(settings.dead_link_timeout);
    option(&mut words, format!("ServerAliveInterval={alive}").as_ref());
    for value in PREFERRED {
        option(&mut words, value.as_ref());
    }
    // In the background ssh has no stderr, but it keeps its log.
    words.extend(["-E".into(), paths.log.into()]);
    words.extend(["-S".into(), paths.socket.into()]);
    words.push("--".into());
    words.push((&host.name).into());
    words
}

/// ssh's own limit is for each address: half of ours, so that a name with a dead IPv6 address and
/// a living IPv4 address still gets through.
fn connect_timeout(whole: Duration) -> Option<u64> {
    (!whole.is_zero()).then(|| whole.as_millis().div_ceil(2000).max(1) as u64)
}

/// A link is given up when three keepalives in a row have gone unanswered (`ServerAliveCountMax`).
fn alive_interval(dead_link_timeout: Duration) -> u64 {
    dead_link_timeout.as_secs().div_ceil(3).max(1)
}

/// A name for a connection: 16 characters that depend on all that makes two connections differ.
pub(in crate::transport::openssh) fn connection_name(
    host: &Host,
    settings: &SshSettings,
) -> String {
    let mut hash = Sha256::new();
    // Each field with its length, so that no two lists of fields look the same.
    let mut field = |bytes: Option<&[u8]>| {
        hash.update(bytes.map_or(u64::MAX, |b| b.len() as u64).to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    field(Some(b"ssh-substituter master 3"));
    field(Some(host.name.as_bytes()));
    field(host.user.as_deref().map(str::as_bytes));
    field(
        host.port
            .map(u16::to_le_bytes)
            .as_ref()
            .map(<[u8; 2]>::as_slice),
    );
    field(host.ssh_key.as_ref().map(|key| key.as_os_str().as_bytes()));
    field(host.public_host_key.as_deref().map(str::as_bytes));
    field(Some(&[u8::from(host.compress)]));
    let alive = alive_interval(settings.dead_link_timeout);
    field(Some(&alive.to_le_bytes()));
    field(
        settings
            .auth_sock
            .as_ref()
            .map(|sock| sock.as_os_str().as_bytes()),
    );
    let caller = settings.only_for.as_ref().map(CallingProcess::identity);
    field(caller.as_deref().map(str::as_bytes));
    for word in &settings.ssh_options {
        field(Some(word.as_bytes()));
    }
    let digest = hash.finalize();
    let name = data_encoding::BASE32_NOPAD.encode(&digest[..10]);
    let name = name.to_lowercase();
    match &settings.only_for {
        Some(caller) => caller.client_name(&name),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host::parse("ssh://u@h:2222?ssh-key=/k&compress=true").unwrap()
    }

    fn words(host: &Host, settings: &SshSettings, known_hosts: Option<&Path>) -> Vec<String> {
        let paths = MasterFiles {
            socket: Path::new("/r/s"),
            log: Path::new("/r/l"),
            known_hosts,
        };
        let words = master_arguments(host, settings, &paths);
        words
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn ours_come_first_then_the_users_then_defaults() {
        let settings = SshSettings {
            ssh_options: ["-M", "-o", "ConnectTimeout=99", "-S", "x"]
                .map(str::to_owned)
                .into(),
            connect_timeout: Duration::from_secs(5),
            dead_link_timeout: Duration::from_secs(10),
            ..SshSettings::default()
        };
        let words = words(&host(), &settings, Some(Path::new("/r/known")));
        let at = |word: &str| {
            words
                .iter()
                .position(|w| w == word)
                .unwrap_or_else(|| panic!("{word}"))
        };
        assert!(at("ControlMaster=yes") < at("ConnectTimeout=99"));
        assert!(at("UserKnownHostsFile=/r/known") < at("ConnectTimeout=99"));
        assert!(at("ConnectTimeout=99") < at("ConnectTimeout=3"));
        assert!(at("ConnectTimeout=99") < at("ServerAliveInterval=4"));
        assert!(at("x") < at("/r/s"));
        assert!(!words.contains(&"-M".to_owned()));
        assert_eq!(words[words.len() - 4..], ["-S", "/r/s", "--", "h"]);
        assert_eq!(words[at("-l") + 1], "u");
        assert_eq!(words[at("-p") + 1], "2222");
        assert_eq!(words[at("-i") + 1], "/k");
    }

    #[test]
    fn host_keys_are_left_to_ssh_unless_one_is_given() {
        let words = words(&host(), &SshSettings::default(), None);
        assert!(
            !words
                .iter()
                .any(|word| word.contains("HostKey") || word.contains("KnownHosts"))
        );
    }

    #[test]
    fn names_differ_in_everything_that_matters_and_nothing_else() {
        let settings = SshSettings::default();
        let name = connection_name(&host(), &settings);
        assert_eq!(name.len(), 16);
        let same = Host {
            trusted: true,
            remote_store: Some("/x".into()),
            ..host()
        };
        assert_eq!(connection_name(&same, &settings), name);
        let of_hosts: [fn(&mut Host); 6] = [
            |host| host.user = None,
            |host| host.port = None,
            |host| host.compress = false,
            |host| host.public_host_key = Some("k".into()),
            |host| host.ssh_key = None,
            |host| host.name = "i".into(),
        ];
        for change in of_hosts {
            let mut other = host();
            change(&mut other);
            assert_ne!(connection_name(&other, &settings), name, "{other:?}");
        }
        let of_settings: [fn(&mut SshSettings); 4] = [
            |settings| settings.ssh_options = vec!["-4".into()],
            |settings| settings.only_for = Some(CallingProcess::of_process()),
            |settings| settings.auth_sock = Some("/agent".into()),
            |settings| settings.dead_link_timeout = Duration::from_secs(9),
        ];
        for change in of_settings {
            let mut other = settings.clone();
            change(&mut other);
            assert_ne!(connection_name(&host(), &other), name, "{other:?}");
        }
    }
}
