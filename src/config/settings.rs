//! The settings of this program, and their values after all sources have been read.
//!
//! A later `name = value` replaces what earlier sources said, `extra-name = value` (lists only)
//! adds to it; so it is in Nix.

use super::origin::{Assignment, Origin};

/// A setting of nix.conf or ssh-substituter.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `ssh-substituter-hosts`
    Hosts,
    /// `trusted-ssh-substituter-hosts`
    TrustedHosts,
    /// `ssh-substituter-push-hosts`
    PushHosts,
    /// `push-signing-key`
    PushSigningKey,
    /// `use-ssh-substituter`
    UseSshSubstituter,
    /// `ssh-auth-sock`
    SshAuthSock,
    /// `ssh-environment`
    SshEnvironment,
    /// `connect-timeout`
    ConnectTimeout,
    /// `stalled-download-timeout`
    StalledDownloadTimeout,
    /// `dead-link-timeout`
    DeadLinkTimeout,
    /// `require-sigs`
    RequireSigs,
    /// `trusted-public-keys`
    TrustedPublicKeys,
    /// `narinfo-cache-positive-ttl`
    PositiveTtl,
    /// `narinfo-cache-negative-ttl`
    NegativeTtl,
    /// `readahead-memory`
    ReadaheadMemory,
    /// `readahead-disk`
    ReadaheadDisk,
    /// `partial-downloads`
    PartialDownloads,
    /// `download-speed`
    DownloadSpeed,
    /// `delta-base`
    DeltaBase,
    /// `engine`
    Engine,
    /// `engine-idle-timeout`
    EngineIdleTimeout,
    /// `progress`
    Progress,
    /// `http-listen`
    HttpListen,
    /// `http-signing-key`
    HttpSigningKey,
    /// `http-password-file`
    HttpPasswordFile,
    /// `http-compression`
    HttpCompression,
}

/// Whether `extra-` can add to a value.
#[derive(PartialEq)]
enum Shape {
    One,
    /// It is a list of words.
    List,
}
use Shape::{List, One};

/// Whether Nix, from 2.0 on, knows a setting of this name.
const OF_NIX: bool = true;
const OURS: bool = false;

/// All settings in the order of [`Key`]: name, built-in value as it is spelled in a file, and the rest. Built-in values
/// of settings that Nix knows as well are Nix's, but for `connect-timeout`, where older versions of Nix wait without limit.
// A row is a line.
#[rustfmt::skip]
const SETTINGS: [(Key, &str, &str, Shape, bool); 26] = [
    (Key::Hosts, "ssh-substituter-hosts", "", List, OURS),
    (Key::TrustedHosts, "trusted-ssh-substituter-hosts", "", List, OURS),
    (Key::PushHosts, "ssh-substituter-push-hosts", "", List, OURS),
    (Key::PushSigningKey, "push-signing-key", "", One, OURS),
    (Key::UseSshSubstituter, "use-ssh-substituter", "true", One, OURS),
    (Key::SshAuthSock, "ssh-auth-sock", "", One, OURS),
    (Key::SshEnvironment, "ssh-environment", "", List, OURS),
    (Key::ConnectTimeout, "connect-timeout", "15", One, OF_NIX),
    (Key::StalledDownloadTimeout, "stalled-download-timeout", "300", One, OF_NIX),
    (Key::DeadLinkTimeout, "dead-link-timeout", "45", One, OURS),
    (Key::RequireSigs, "require-sigs", "true", One, OF_NIX),
    (Key::TrustedPublicKeys, "trusted-public-keys", PUBLIC_KEY, List, OF_NIX),
    (Key::PositiveTtl, "narinfo-cache-positive-ttl", "2592000", One, OF_NIX),
    (Key::NegativeTtl, "narinfo-cache-negative-ttl", "3600", One, OF_NIX),
    (Key::ReadaheadMemory, "readahead-memory", "256M", One, OURS),
    (Key::ReadaheadDisk, "readahead-disk", "2G", One, OURS),
    (Key::PartialDownloads, "partial-downloads", "2G", One, OURS),
    (Key::DownloadSpeed, "download-speed", "0", One, OF_NIX),
    (Key::DeltaBase, "delta-base", "", List, OURS),
    (Key::Engine, "engine", "auto", One, OURS),
    (Key::EngineIdleTimeout, "engine-idle-timeout", "300", One, OURS),
    (Key::Progress, "progress", "auto", One, OURS),
    (Key::HttpListen, "http-listen", "", List, OURS),
    (Key::HttpSigningKey, "http-signing-key", "", One, OURS),
    (Key::HttpPasswordFile, "http-password-file", "", One, OURS),
    (Key::HttpCompression, "http-compression", "auto", One, OURS),
];

const PUBLIC_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

impl Key {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; SETTINGS.len()] = {
        let mut all = [Self::Hosts; SETTINGS.len()];
        let mut index = 0;
        while index < all.len() {
            all[index] = SETTINGS[index].0;
            assert!(all[index] as usize == index, "the table is in order");
            index += 1;
        }
        all
    };

    /// Its name in a configuration file.
    #[must_use]
    pub fn name(self) -> &'static str {
        SETTINGS[self as usize].1
    }

    /// Its built-in value, spelled as in a file.
    #[must_use]
    pub fn default_value(self) -> &'static str {
        SETTINGS[self as usize].2
    }

    /// Whether its value is a list of words, which `extra-` can add to.
    #[must_use]
    pub fn is_list(self) -> bool {
        SETTINGS[self as usize].3 == List
    }

    /// Whether Nix, from 2.0 on, knows no setting of this name.
    pub(super) fn is_unknown_to_nix(self) -> bool {
        SETTINGS[self as usize].4 == OURS
    }

    /// Whether a setting of ours has this name.
    pub(super) fn is_known(name: &str) -> bool {
        Self::find(name).is_some()
    }

    /// The key of a name, and whether the name is its `extra-` form. Nix 1.x calls
    /// `trusted-public-keys` `binary-cache-public-keys`, which Nix 2 still takes.
    pub(super) fn find(name: &str) -> Option<(Self, bool)> {
        let plain = |name: &str| {
            let name = match name {
                "binary-cache-public-keys" => "trusted-public-keys",
                name => name,
            };
            Self::ALL.into_iter().find(|key| key.name() == name)
        };
        if let Some(key) = plain(name) {
            return Some((key, false));
        }
        let key = plain(name.strip_prefix("extra-")?)?;
        key.is_list().then_some((key, true))
    }
}

/// A value, not yet validated, with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The value as it is spelled there.
    pub text: String,
    /// Where it stands.
    pub origin: Origin,
}

/// A setting with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which one.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// What `extra-` added to it, in order.
    pub extra: Vec<Value>,
}

/// All settings, with the origin of every value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// One for each of [`Key::ALL`], in that order.
    all: Vec<Setting>,
}

impl Settings {
    /// The built-in values.
    pub(super) fn built_in() -> Self {
        let built_in = |key: Key| Setting {
            key,
            value: Value {
                text: key.default_value().to_owned(),
                origin: Origin::BuiltIn,
            },
            extra: Vec::new(),
        };
        Self {
            all: Key::ALL.into_iter().map(built_in).collect(),
        }
    }

    /// Applies an assignment. `false` when it is not about a setting of ours.
    pub(super) fn apply(&mut self, assignment: Assignment) -> bool {
        let Some((key, extra)) = Key::find(&assignment.name) else {
            return false;
        };
        let value = Value {
            text: assignment.value,
            origin: assignment.origin,
        };
        let setting = &mut self.all[key as usize];
        if extra {
            setting.extra.push(value);
        } else {
            setting.value = value;
            setting.extra.clear();
        }
        true
    }

    /// One setting.
    #[must_use]
    pub fn get(&self, key: Key) -> &Setting {
        &self.all[key as usize]
    }

    /// All settings, in the order of [`Key::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.all.iter()
    }
}

impl Setting {
    /// The words of a list, each with its origin.
    pub fn words(&self) -> impl Iterator<Item = (&str, &Origin)> {
        std::iter::once(&self.value)
            .chain(&self.extra)
            .flat_map(|value| {
                let words = value.text.split_ascii_whitespace();
                words.map(|word| (word, &value.origin))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::{Assignment, Key, Origin, Settings};

    fn settings(assignments: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::built_in();
        for (name, value) in assignments {
            let known = settings.apply(Assignment {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
                origin: Origin::Flag("--option"),
            });
            assert!(known, "{name}");
        }
        settings
    }

    fn words(settings: &Settings, key: Key) -> Vec<&str> {
        settings.get(key).words().map(|(word, _)| word).collect()
    }

    #[test]
    fn each_key_finds_its_own_setting() {
        for (setting, key) in Settings::built_in().iter().zip(Key::ALL) {
            assert_eq!(setting.key, key);
            assert_eq!(Settings::built_in().get(key), setting);
            assert_eq!(settings(&[(key.name(), "x")]).get(key).value.text, "x");
        }
    }

    #[test]
    fn later_values_replace_and_extra_ones_add() {
        let key = Key::Hosts;
        let mut list = vec![("extra-ssh-substituter-hosts", "a")];
        assert_eq!(words(&settings(&list), key), ["a"]);
        list.push(("ssh-substituter-hosts", "b \t c"));
        list.push(("extra-ssh-substituter-hosts", "d"));
        list.push(("extra-ssh-substituter-hosts", "e"));
        assert_eq!(words(&settings(&list), key), ["b", "c", "d", "e"]);
        list.push(("ssh-substituter-hosts", ""));
        assert!(words(&settings(&list), key).is_empty());
    }

    #[test]
    fn knows_what_is_not_ours() {
        for name in [
            "substituters",
            "extra-connect-timeout",
            "extra-extra-ssh-substituter-hosts",
            "Connect-Timeout",
            "untrusted-ssh-substituter-hosts",
            "",
        ] {
            let mut settings = Settings::built_in();
            let known = settings.apply(Assignment {
                name: name.to_owned(),
                value: "1".to_owned(),
                origin: Origin::BuiltIn,
            });
            assert!(!known, "{name}");
            assert_eq!(settings, Settings::built_in());
        }
    }

    #[test]
    fn knows_the_old_name_of_the_keys() {
        let settings = settings(&[
            ("binary-cache-public-keys", "a:b"),
            ("extra-binary-cache-public-keys", "c:d"),
        ]);
        assert_eq!(words(&settings, Key::TrustedPublicKeys), ["a:b", "c:d"]);
    }
}
