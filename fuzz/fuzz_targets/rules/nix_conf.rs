//! Rules of the configuration. The input has sections; a line `== NAME` begins another one. NAME is a file
//! (`nix.conf`, the first one without a name, `ssh-substituter.conf`, or `x`, which others may include), an
//! environment variable, or a flag (`--host`, `--store`, `--option`; one value a line).
//!
//! 1. There is a configuration or an error, and the same each time. Both can be shown on a terminal.
//! 2. What holds is within its limits; no host is there twice.
//! 3. The settings as they are shown, read from a file, give the same configuration.
//! 4. Whatever an unprivileged user chooses: each host in use is one that the system's configuration names,
//!    with the parameters that it has there, and nothing that decides about trust is changed.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use ssh_substituter::config::{Config, ConfigError, Sources};

use super::assert_plain;

const FILES: [&str; 3] = ["nix.conf", "ssh-substituter.conf", "x"];
const VARIABLES: [&str; 6] = [
    "NIX_CONFIG",
    "_NIX_OPTIONS",
    "NIX_SSHOPTS",
    "NIX_STORE_DIR",
    "NIX_STORE",
    "SSH_AUTH_SOCK",
];

type Sections = HashMap<String, String>;

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let mut sections = sections(&String::from_utf8_lossy(input));
    for (name, text) in &mut sections {
        *text = tame(text, dir.path(), name == "NIX_CONFIG");
    }
    for file in FILES {
        if let Some(text) = sections.get(file) {
            fs::write(dir.path().join(file), text).unwrap();
        }
    }
    let first = load(&sections, dir.path());
    let again = load(&sections, dir.path());
    match (&first, &again) {
        (Ok((one, warnings)), Ok((other, _))) => {
            assert_eq!(one.identity(), other.identity());
            warnings.iter().for_each(|warning| assert_plain(warning));
            is_within_limits(one);
        }
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string());
            let mut cause: Option<&dyn Error> = Some(one);
            while let Some(error) = cause {
                assert_plain(&error.to_string());
                cause = error.source();
            }
        }
        other => panic!("once so and once so: {other:?}"),
    }
    of_files(&sections, dir.path());
    of_unprivileged(&sections, dir.path());
}

fn sections(text: &str) -> Sections {
    let mut sections = Sections::new();
    let mut name = FILES[0];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("== ") {
            Some(next) => name = next.trim_end(),
            None => sections.entry(name.to_owned()).or_default().push_str(line),
        }
    }
    sections
}

/// Lets only files of `dir` be included, by names that can be shown: others on this machine are nobody's
/// business, and some of them never end.
fn tame(text: &str, dir: &Path, absolute: bool) -> String {
    let dir = dir.to_str().expect("the temporary folder is UTF-8");
    let before = if absolute {
        format!("{dir}/")
    } else {
        String::new()
    };
    let line = |line: &str| {
        let Some((start, path)) = line.split_once("include ") else {
            return line.to_owned();
        };
        let path = path
            .trim_start()
            .replace(|c: char| c == '/' || c.is_control(), "_");
        format!("{start}include {before}{path}")
    };
    let lines: Vec<String> = text.split('\n').map(line).collect();
    // Any other white space is no matter for this file's rules.
    lines
        .join("\n")
        .replace("include\t", "include_")
        .replace("include\r", "include_")
}

fn load(sections: &Sections, dir: &Path) -> Result<(Config, Vec<String>), ConfigError> {
    let lines = |name: &str| -> Vec<String> {
        let text = sections.get(name).map_or("", String::as_str);
        text.lines().map(str::to_owned).collect()
    };
    let option = |line: String| {
        let (name, value) = line.split_once(' ').unwrap_or((&line, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut variables: HashMap<&str, OsString> = VARIABLES
        .into_iter()
        .filter_map(|name| Some((name, sections.get(name)?.trim_end_matches('\n').into())))
        .collect();
    variables.insert("NIX_CONF_DIR", dir.into());
    let mut sources = Sources::from_process();
    sources.env = Box::new(move |name| variables.get(name).cloned());
    sources.uid = 0;
    sources.home = None;
    sources.hosts = lines("--host");
    sources.store = sections.get("--store").cloned();
    sources.options = lines("--option").into_iter().map(option).collect();
    Config::load(sources)
}

fn is_within_limits(config: &Config) {
    for (place, host) in config.hosts.iter().enumerate() {
        super::hosts::is_harmless(host);
        assert!(
            !config.hosts[..place]
                .iter()
                .any(|other| other.same_as(host))
        );
    }
    let priority = |host: &ssh_substituter::config::Host| host.priority.unwrap_or(0);
    assert!(config.hosts.is_sorted_by_key(priority));
    let times = [
        config.connect_timeout,
        config.stall_timeout,
        config.engine_idle_timeout,
    ];
    assert!(times.iter().all(|time| time.as_secs() >= 1));
    assert!(config.dead_link_timeout.as_secs() >= 3);
    let all = times
        .into_iter()
        .chain([config.positive_ttl, config.negative_ttl]);
    // So that they can be added to any clock's reading.
    assert!(
        all.into_iter()
            .all(|time| time.as_secs() <= u64::from(u32::MAX))
    );
    if let Some(socket) = &config.ssh_auth_sock {
        let socket = socket.to_str().expect("it was parsed from a string");
        assert!(socket.starts_with('/') && !socket.contains(char::is_control));
    }
    let dir = &config.store_dir;
    assert!(
        dir.starts_with('/') && !dir.ends_with('/') && !dir.contains("//"),
        "{dir:?}"
    );
    assert!(
        !dir.split('/').any(|part| part == ".." || part == "."),
        "{dir:?}"
    );
    let keys = &config.trusted_public_keys;
    for (place, key) in keys.iter().enumerate() {
        assert!(!keys[..place].contains(key));
    }
}

/// Rule 3.
fn of_files(sections: &Sections, dir: &Path) {
    let mut files = sections.clone();
    files.retain(|name, _| FILES.contains(&name.as_str()));
    let Ok((config, _)) = load(&files, dir) else {
        return;
    };
    let mut shown = String::new();
    for setting in config.settings.iter() {
        let name = setting.key.name();
        shown.push_str(&format!("{name} = {}\n", setting.value.text));
        for extra in &setting.extra {
            shown.push_str(&format!("extra-{name} = {}\n", extra.text));
        }
    }
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join(FILES[0]), shown).unwrap();
    let (again, _) =
        load(&Sections::new(), other.path()).expect("what is shown is a configuration");
    assert_eq!(again.identity(), config.identity());
}

/// Rule 4.
fn of_unprivileged(sections: &Sections, dir: &Path) {
    let mut system = sections.clone();
    let options = system.remove("_NIX_OPTIONS").unwrap_or_default();
    let Ok((before, _)) = load(&system, dir) else {
        return;
    };
    let chosen: Vec<&str> = options
        .lines()
        .filter(|line| line.starts_with("untrusted-"))
        .collect();
    let mut with = system;
    with.insert("_NIX_OPTIONS".to_owned(), chosen.join("\n"));
    let Ok((after, _)) = load(&with, dir) else {
        return;
    };
    for host in &after.hosts {
        let named = before.hosts.iter().chain(&before.trusted_hosts);
        assert!(
            named.into_iter().any(|named| named == host),
            "{host} is named nowhere"
        );
    }
    assert!(before.enabled || !after.enabled);
    let trust = |config: &Config| {
        let sigs = config.require_sigs;
        let keys = config.trusted_public_keys.clone();
        let hosts = config.trusted_hosts.clone();
        (
            sigs,
            keys,
            hosts,
            config.ssh_options.clone(),
            config.store_dir.clone(),
        )
    };
    assert_eq!(trust(&after), trust(&before));
    // An agent of one's own is for oneself alone.
    assert!(after.ssh_auth_sock == before.ssh_auth_sock || after.is_untrusted_choice);
}
