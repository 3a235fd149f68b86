//! Hosts, as the configuration names them: [`Host::parse`] reads a host spec.
//!
//! # Grammar of a host spec
//! ```text
//! spec      = [ "ssh://" ] [ user "@" ] name [ ":" port ] [ "/" ] [ "?" param *( "&" param ) ]
//! user      = 1*255( A-Z a-z 0-9 . _ + - @ \ )   the last "@" ends it; not starting with "-";
//!                                            percent-encoded also : % # = , ~ ^ /
//! name      = 1*255( A-Z a-z 0-9 . _ - )     starting with a letter, a digit or "_"
//!           | "[" IPv6 address [ "%" zone ] "]"
//! port      = 1 to 65535
//! param     = parameter "=" value            value percent-encoded; "+" stands for itself
//! ```
//!
//! Parameters are those of Nix's SSH store (Nix manual, "Store Types", "SSH Store"; `port` is
//! Lix's; `compression`, `compression-level`, `delta` and `limit-rate` are ours, named as in Nix's binary cache stores):
//!
//! | parameter | value | default |
//! | --- | --- | --- |
//! | `ssh-key` | private key file | ssh's own choice |
//! | `base64-ssh-public-host-key` | base64 of a line `ssh-ed25519 AAAA… [comment]` | known_hosts |
//! | `compress` | boolean | `false` |
//! | `compression` | `auto`, `zstd` or `none` | `auto` |
//! | `compression-level` | 1 to 19 | 3 |
//! | `limit-rate` | bytes a second, with K, M or G behind it if wanted | none |
//! | `delta` | `auto`, `always` or `off` | `auto` |
//! | `remote-program` | program and arguments, split at white space | `nix-store` |
//! | `remote-store` | the remote program's `--store` | none |
//! | `priority` | integer, smaller is asked first | none, which counts as 0 |
//! | `trusted` | boolean | `false` |
//! | `max-connections` | 1 to 64 | 16 |
//! | `port` | as `:port` | ssh's own choice |
//!
//! Booleans are `true`, `yes`, `1`, `false`, `no`, `0`. Parameters that mean something to Nix but
//! nothing here (`want-mass-query`, `path-info-cache-size`, …) are accepted and ignored.

mod address;
mod compression;
mod delta;
mod error;
mod params;
mod ssh_target;
mod url;

pub use compression::{Compression, CompressionMode};
pub use delta::DeltaMode;
pub use error::{HostError, HostErrorKind};

use std::fmt;
use std::path::PathBuf;

pub use ssh_target::SshTarget;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::value::printable;

/// Longest spec that is read, in bytes.
const MAX_SPEC_LEN: usize = 4096;

/// ssh's default port.
const SSH_PORT: u16 = 22;

/// Characters that are percent-encoded in a shown user name, since they mean something else in a host spec, in a
/// list of specs or to a shell.
const NOT_IN_A_USER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'_')
    .remove(b'+')
    .remove(b'-')
    .remove(b'@');

/// One host, parsed and validated: nothing in it can be taken for an option or a shell word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Host name, address or `Host` alias of `~/.ssh/config`; an IPv6 address without brackets.
    pub name: String,
    /// Login name; `None` leaves it to ssh's own configuration.
    pub user: Option<String>,
    /// TCP port; `None` leaves it to ssh's own configuration.
    pub port: Option<u16>,
    /// `ssh-key`: private key file.
    pub ssh_key: Option<PathBuf>,
    /// `base64-ssh-public-host-key`, decoded and without its comment: `ssh-ed25519 AAAA…`.
    pub public_host_key: Option<String>,
    /// `compress`: let ssh compress.
    pub compress: bool,
    /// `compression` and `compression-level`: let the host compress what its shell sends.
    pub compression: Compression,
    /// `limit-rate`: how many bytes a second may come from it.
    pub limit_rate: Option<u64>,
    /// `delta`: fetch paths as differences from what is here.
    pub delta: DeltaMode,
    /// `remote-program`: program and arguments, `nix-store` by default. Never empty; each word is
    /// printable ASCII that stays itself between single quotes in sh, fish and csh.
    pub remote_program: Vec<String>,
    /// `remote-store`: passed to the remote program as `--store`; characters as in
    /// `remote_program`.
    pub remote_store: Option<String>,
    /// `trusted`: paths from here need no signature.
    pub trusted: bool,
    /// `priority`: smaller is asked first; hosts without one count as 0 (Nix's default) and keep
    /// their order among equals.
    pub priority: Option<i32>,
    /// `max-connections`: connections at a time.
    pub max_connections: u32,
}

impl Host {
    /// Default of `max-connections`. On a long link each channel moves at most 2 MiB
    /// a round trip (OpenSSH's window); eight of them share one ssh connection.
    pub const DEFAULT_MAX_CONNECTIONS: u32 = 16;
    /// Default of `remote-program`.
    pub const DEFAULT_REMOTE_PROGRAM: &'static str = "nix-store";

    /// Parses a host spec: `name`, `user@name`, `ssh://user@name:port?param=value&…` (the
    /// [grammar](self)).
    ///
    /// # Errors
    /// When any part of it is not as the grammar says.
    pub fn parse(spec: &str) -> Result<Self, HostError> {
        Self::parse_parts(spec).map_err(|kind| HostError {
            spec: printable(spec),
            kind,
        })
    }

    fn parse_parts(spec: &str) -> Result<Self, HostErrorKind> {
        if spec.len() > MAX_SPEC_LEN {
            return Err(HostErrorKind::TooLong(MAX_SPEC_LEN));
        }
        let (rest, query) = spec.split_once('?').unwrap_or((spec, ""));
        let mut host = address::parse(rest)?;
        params::apply(&mut host, query)?;
        Ok(host)
    }

    /// A host with this name and defaults for the rest. The name has been validated.
    fn named(name: String) -> Self {
        Self {
            name,
            user: None,
            port: None,
            ssh_key: None,
            public_host_key: None,
            compress: false,
            compression: Compression::default(),
            limit_rate: None,
            delta: DeltaMode::default(),
            remote_program: vec![Self::DEFAULT_REMOTE_PROGRAM.to_owned()],
            remote_store: None,
            trusted: false,
            priority: None,
            max_connections: Self::DEFAULT_MAX_CONNECTIONS,
        }
    }

    /// All that matters for reaching the host and starting its serve loop, as a text. It tells hosts apart whose
    /// failures have nothing to do with each other: with another key or program, a host that fails may work.
    #[must_use]
    pub fn identity(&self) -> String {
        let key = self.ssh_key.as_deref().map(|path| path.to_string_lossy());
        let parts = [
            self.to_string(),
            key.unwrap_or_default().into_owned(),
            self.public_host_key.clone().unwrap_or_default(),
            self.remote_program.join(" "),
            self.remote_store.clone().unwrap_or_default(),
        ];
        parts.join("\n")
    }

    /// Whether both name the same account of the same machine, however spelled: same user, same
    /// name (letter case aside), same port (none is 22). Parameters play no part.
    ///
    /// Purely textual: an alias of `~/.ssh/config` and the name behind it are two hosts.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.user == other.user
            && self.name.eq_ignore_ascii_case(&other.name)
            && self.port.unwrap_or(SSH_PORT) == other.port.unwrap_or(SSH_PORT)
    }

    /// Whether it has a parameter that an untrusted choice may not set, because it decides what is
    /// trusted, which secret is used or what is run: `ssh-key`,
    /// `base64-ssh-public-host-key`, `trusted=true`, `remote-store`, a `remote-program` other than
    /// the default.
    #[must_use]
    pub fn brings_privileged_params(&self) -> bool {
        self.ssh_key.is_some()
            || self.public_host_key.is_some()
            || self.trusted
            || self.remote_store.is_some()
            || self.remote_program != [Self::DEFAULT_REMOTE_PROGRAM]
    }
}

/// `user@name:port` for messages, IPv6 addresses in brackets; again a host spec.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{}@", utf8_percent_encode(user, NOT_IN_A_USER))?;
        }
        match self.name.split_once('%') {
            // `%25` is how a URL spells the `%` before a zone, and would be taken for that.
            Some((address, zone)) if zone.starts_with("25") => write!(f, "[{address}%25{zone}]")?,
            _ if self.name.contains(':') => write!(f, "[{}]", self.name)?,
            _ => f.write_str(&self.name)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Host;

    fn host(spec: &str) -> Host {
        Host::parse(spec).unwrap()
    }

    #[test]
    fn is_shown_as_user_name_port() {
        for (spec, shown) in [
            ("a", "a"),
            ("ssh://u@a:2222?compress=true", "u@a:2222"),
            ("ssh://u%40corp@a:2222", "u@corp@a:2222"),
            ("CORP\\u@a", "CORP%5Cu@a"),
            ("ssh://u%3ax%2Fy%25z%23,@a", "u%3Ax%2Fy%25z%23%2C@a"),
            ("ssh://u@[::1]:2222", "u@[::1]:2222"),
            ("ssh://[fe80::1%25eth0]", "[fe80::1%eth0]"),
            ("ssh://[fe80::1%2525]", "[fe80::1%2525]"),
            ("ssh://[fe80::1%25254]:22", "[fe80::1%25254]:22"),
            ("[fe80::1%252525]", "[fe80::1%252525]"),
        ] {
            assert_eq!(host(spec).to_string(), shown);
            assert_eq!(host(shown).to_string(), shown);
        }
    }

    #[test]
    fn spelling_does_not_make_another_host() {
        for (one, other) in [
            ("a", "ssh://a"),
            ("a", "A:22"),
            ("u@a", "ssh://%75@a?trusted=true&priority=3"),
            ("u@corp@a", "ssh://u%40corp@a:22"),
            ("[::1]", "ssh://[0:0::1]:22"),
        ] {
            assert!(host(one).same_as(&host(other)), "{one} {other}");
            assert!(host(other).same_as(&host(one)), "{other} {one}");
        }
    }

    #[test]
    fn another_account_machine_or_port_is_another_host() {
        for (one, other) in [
            ("a", "b"),
            ("a", "u@a"),
            ("u@a", "U@a"),
            ("u@a", "u@corp@a"),
            ("u@corp@a", "corp@a"),
            ("a", "a:2222"),
            ("a", "a."),
        ] {
            assert!(!host(one).same_as(&host(other)), "{one} {other}");
        }
    }

    #[test]
    fn knows_which_parameters_are_privileged() {
        for spec in [
            "a",
            "ssh://u@a:22?compress=true&priority=1&max-connections=9&want-mass-query=true",
            "ssh://a?trusted=false&remote-program=nix-store&ssh-key=&remote-store=",
        ] {
            assert!(!host(spec).brings_privileged_params(), "{spec}");
        }
        for spec in [
            "ssh://a?trusted=true",
            "ssh://a?ssh-key=/k",
            "ssh://a?remote-store=/r",
            "ssh://a?remote-program=nix-store%20--x",
            "ssh://a?remote-program=/bin/nix-store",
            "ssh://a?base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSU5RdENIeEpIRWc1cHlqUXlqenlVUFoxS0tzQTFaNTcvZmxzaEdKVlhrOVE=",
        ] {
            assert!(host(spec).brings_privileged_params(), "{spec}");
        }
    }
}
