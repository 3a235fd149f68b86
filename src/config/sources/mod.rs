//! Reads everything from outside that the configuration is made of.

mod inspect;
mod nix_conf;

pub use inspect::{SettingLine, nix_setting, setting_lines};

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::origin::{Assignment, Origin};
use super::settings::{Key, Settings};
use super::untrusted::{HostChoice, Untrusted};
use super::value::printable;
use nix_conf::{ConfSource, MAX_FILE_SIZE};

pub(super) const OWN_FILE: &str = "ssh-substituter.conf";
const NIX_FILE: &str = "nix.conf";
const NIX_OPTIONS: &str = "_NIX_OPTIONS";

/// Gives the value of an environment variable.
pub type EnvLookup = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Everything from outside that the configuration is made of. Nothing else is read but the files named here.
pub struct Sources {
    /// Looks up an environment variable.
    pub env: EnvLookup,
    /// Effective user id. For root, no files in the home are read: `HOME` may still be that of the user who
    /// became root.
    pub uid: u32,
    /// Home folder, for `.config/nix`.
    pub home: Option<PathBuf>,
    /// `--host`, as often as given. Taken as they are, instead of the configured ones.
    pub hosts: Vec<String>,
    /// `push --to`: hosts in place of the configured ones that a push sends to.
    pub push_hosts: Vec<String>,
    /// `--store`: a choice among the configured and trusted hosts, separated by white space or
    /// commas.
    pub store: Option<String>,
    /// `--option NAME VALUE`, as often as given.
    pub options: Vec<(String, String)>,
}

impl Sources {
    /// The environment, user and home of this process, without flags.
    #[must_use]
    pub fn from_process() -> Self {
        Self {
            env: Box::new(|name| env::var_os(name)),
            uid: rustix::process::geteuid().as_raw(),
            home: env::home_dir(),
            ..Self::nothing()
        }
    }

    /// No environment, no home and no flags, as root.
    pub(super) fn nothing() -> Self {
        Self {
            env: Box::new(|_| None),
            uid: 0,
            home: None,
            hosts: Vec::new(),
            push_hosts: Vec::new(),
            store: None,
            options: Vec::new(),
        }
    }

    /// An environment variable; one that is empty counts as missing.
    pub(super) fn var(&self, name: &str) -> Option<OsString> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn dir(&self, name: &str) -> Option<PathBuf> {
        self.var(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }

    /// The configuration files, lowest first; not all of them need be there.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let system = self
            .var("NIX_CONF_DIR")
            .map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
        let mut files = vec![system.join(NIX_FILE), system.join(OWN_FILE)];
        if self.uid == 0 {
            return files;
        }
        let user = self
            .dir("XDG_CONFIG_HOME")
            .or_else(|| Some(self.home.as_ref()?.join(".config")))
            .map(|dir| dir.join("nix"));
        // As in Nix: a list that replaces the user's nix.conf, the most important first.
        if let Some(list) = self.var("NIX_USER_CONF_FILES") {
            let list: Vec<PathBuf> = env::split_paths(&list).collect();
            files.extend(list.into_iter().rev().filter(|path| path.is_absolute()));
        } else {
            files.extend(user.iter().map(|dir| dir.join(NIX_FILE)));
        }
        files.extend(user.iter().map(|dir| dir.join(OWN_FILE)));
        files
    }
}

/// What the sources hold, not yet validated.
pub(super) struct RawConfig {
    pub settings: Settings,
    pub untrusted: Untrusted,
    pub warnings: Vec<String>,
}

/// Reads all sources, lowest first.
pub(super) fn gather(sources: &Sources) -> Result<RawConfig, ConfigError> {
    let mut raw = RawConfig::built_in();
    raw.agent(sources);
    for path in sources.files() {
        raw.file(&path)?;
    }
    if let Some(text) = sources.var("NIX_CONFIG") {
        let text = text.to_string_lossy();
        for assignment in nix_conf::parse(&text, ConfSource::Env("NIX_CONFIG"), &mut read)? {
            raw.settings.apply(assignment);
        }
    }
    if let Some(text) = sources.var(NIX_OPTIONS) {
        raw.nix_options(&text.to_string_lossy());
    }
    raw.flags(sources);
    Ok(raw)
}

impl RawConfig {
    pub(super) fn built_in() -> Self {
        Self {
            settings: Settings::built_in(),
            untrusted: Untrusted::default(),
            warnings: Vec::new(),
        }
    }

    /// `SSH_AUTH_SOCK` is the lowest source of `ssh-auth-sock`.
    fn agent(&mut self, sources: &Sources) {
        let Some(socket) = sources.var("SSH_AUTH_SOCK") else {
            return;
        };
        match socket.to_str().filter(|socket| socket.starts_with('/')) {
            Some(socket) => self.apply(
                Key::SshAuthSock.name(),
                socket,
                Origin::Env {
                    name: "SSH_AUTH_SOCK",
                    line: None,
                },
            ),
            None => self.warnings.push(format!(
                "$SSH_AUTH_SOCK is {:?}: ignored, expected an absolute path",
                printable(&socket.to_string_lossy())
            )),
        }
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => {
                let path = path.display();
                self.warnings.push(format!("cannot read {path}: {error}"));
                return Ok(());
            }
        };
        for assignment in nix_conf::parse(&text, ConfSource::File(path.into()), &mut read)? {
            let origin = assignment.origin.clone();
            let name = assignment.name.clone();
            let known = self.settings.apply(assignment);
            // nix.conf is full of settings that are not ours. This file holds only ours, so that
            // another one is a slip of the pen.
            let in_own_file = matches!(&origin, Origin::File { path, .. }
                if path.file_name().is_some_and(|name| name == OWN_FILE));
            if !known && in_own_file {
                self.warn_unknown(&name, &origin);
            }
        }
        Ok(())
    }

    /// The whole configuration of a Nix 1.x that started us, `name=value` on each line, without
    /// comments, and sorted (Nix 1.11, `Settings::pack`): so what stands first says nothing, and
    /// each `extra-` adds to its plain form.
    fn nix_options(&mut self, text: &str) {
        let lines = (1..).zip(text.split('\n'));
        let lines = lines.filter_map(|(number, line)| Some((number, line.split_once('=')?)));
        let (extra, plain): (Vec<_>, Vec<_>) =
            lines.partition(|(_, (name, _))| name.starts_with("extra-"));
        for (number, (name, value)) in plain.into_iter().chain(extra) {
            let assignment = Assignment {
                name: name.to_owned(),
                value: value.trim().to_owned(),
                origin: Origin::Env {
                    name: NIX_OPTIONS,
                    line: Some(number),
                },
            };
            // Every client sends its SSH_AUTH_SOCK, and an empty one when it has none.
            let is_none = name == Key::SshAuthSock.name() && assignment.value.is_empty();
            if !is_none && !self.untrusted.note(&assignment) {
                self.settings.apply(assignment);
            }
        }
    }

    fn flags(&mut self, sources: &Sources) {
        let origin = Origin::Flag("--option");
        for (name, value) in &sources.options {
            let known = self.settings.apply(Assignment {
                name: name.clone(),
                value: value.clone(),
                origin: origin.clone(),
            });
            if !known {
                self.warn_unknown(name, &origin);
            }
        }
        if !sources.hosts.is_empty() {
            let hosts = sources.hosts.join(" ");
            self.apply(Key::Hosts.name(), &hosts, Origin::Flag("--host"));
        }
        if !sources.push_hosts.is_empty() {
            let hosts = sources.push_hosts.join(" ");
            self.apply(Key::PushHosts.name(), &hosts, Origin::Flag("--to"));
        }
        // Flags stand above `_NIX_OPTIONS`, so that hosts they name are not chosen from.
        let hosts = self.settings.get(Key::Hosts);
        if matches!(hosts.value.origin, Origin::Flag(_)) || sources.store.is_some() {
            self.untrusted.hosts = None;
            self.untrusted.extra_hosts = None;
        }
        if let Some(store) = &sources.store {
            self.untrusted.hosts = Some(HostChoice::from_store_flag(store));
        }
    }

    fn apply(&mut self, name: &str, value: &str, origin: Origin) {
        self.settings.apply(Assignment {
            name: name.to_owned(),
            value: value.to_owned(),
            origin,
        });
    }

    fn warn_unknown(&mut self, name: &str, origin: &Origin) {
        let name = printable(name);
        self.warnings
            .push(format!("{origin}: unknown setting {name:?} ignored"));
    }
}

/// Whether there is no such file, nor can be.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Reads a file of limited size. Bytes that are not UTF-8 become U+FFFD: in a comment they do no
/// harm, and no value of ours may hold that character.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE_SIZE + 1;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == limit {
        let message = format!("larger than {MAX_FILE_SIZE} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
