//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

use super::host::HostError;
use super::origin::Origin;
use crate::hint::Hint;

/// Why there is no configuration. The message names origin and value; hints are added where it is reported.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A line that is neither a setting nor an include.
    #[error("{origin}: illegal line {line:?}: expected {expected}")]
    Syntax {
        /// Where it stands.
        origin: Origin,
        /// The line, cut to a printable length.
        line: Box<str>,
        /// What a line would have been.
        expected: &'static str,
    },
    /// An included file could not be read.
    #[error("{origin}: cannot include {}", path.display())]
    Include {
        /// Where the include stands.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Files include each other without end, or nearly so.
    #[error("{origin}: cannot include {}: {reason}", path.display())]
    IncludeLimit {
        /// Where the include stands.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// Which limit is reached.
        reason: &'static str,
    },
    /// A value of one of our settings.
    #[error("{origin}: {setting} is {value:?}: expected {expected}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The setting or environment variable.
        setting: &'static str,
        /// The value, cut to a printable length.
        value: Box<str>,
        /// What a value would have been.
        expected: &'static str,
    },
    /// A host spec in one of our settings.
    #[error("{origin}: {setting} names no host")]
    Host {
        /// Where it stands.
        origin: Origin,
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        #[source]
        source: HostError,
    },
    /// ssh options that no shell could split.
    #[error("{origin}: {value:?} cannot be split into ssh options")]
    SshOptions {
        /// Where they stand.
        origin: Origin,
        /// The options, cut to a printable length.
        value: Box<str>,
        /// What is wrong with them.
        #[source]
        source: shell_words::ParseError,
    },
    /// An unprivileged user chose a host that the system's configuration does not allow.
    #[error(
        "{}host {host} may not be chosen: neither {configured} nor {trusted} lists it",
        place(origin, setting)
    )]
    UntrustedHost {
        /// Where the choice stands.
        origin: Origin,
        /// The setting or flag that makes it.
        setting: &'static str,
        /// The host, as `user@name:port`.
        host: String,
        /// The setting that lists the hosts in use.
        configured: &'static str,
        /// The setting that lists further hosts that may be chosen.
        trusted: &'static str,
    },
}

impl Hint for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Host { source, .. } => source.hint(),
            Self::UntrustedHost { .. } => {
                Some("ask the administrator to add it to trusted-ssh-substituter-hosts".to_owned())
            }
            // The message says what was expected, and where.
            Self::Syntax { .. }
            | Self::Include { .. }
            | Self::IncludeLimit { .. }
            | Self::Value { .. }
            | Self::SshOptions { .. } => None,
        }
    }
}

/// `$_NIX_OPTIONS:7: untrusted-ssh-substituter-hosts: `, or `--store: ` where the flag is both.
fn place(origin: &Origin, setting: &str) -> String {
    match origin {
        Origin::Flag(flag) if *flag == setting => format!("{flag}: "),
        origin => format!("{origin}: {setting}: "),
    }
}
