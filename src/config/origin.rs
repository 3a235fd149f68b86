//! Where a value comes from, for messages and for showing the configuration.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built into the program.
    BuiltIn,
    /// A line of a file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, counted from 1.
        line: u32,
    },
    /// An environment variable.
    Env {
        /// Its name.
        name: &'static str,
        /// The line of its value, counted from 1, where it holds several settings.
        line: Option<u32>,
    },
    /// A flag of the command line, with its hyphens.
    Flag(&'static str),
}

/// `/etc/nix/nix.conf:3`, `$NIX_CONFIG:1`, `$NIX_SSHOPTS`, `--host`, `the built-in default`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env { name, line: None } => write!(f, "${name}"),
            Self::Env {
                name,
                line: Some(line),
            } => write!(f, "${name}:{line}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One `name = value`, with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The setting's name, `extra-` included.
    pub name: String,
    /// Its value; words are separated by single spaces where it comes from a file.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Origin;

    #[test]
    fn is_shown_as_people_would_look_for_it() {
        let file = Origin::File {
            path: Path::new("/etc/nix/nix.conf").into(),
            line: 3,
        };
        let env = |line| Origin::Env {
            name: "NIX_CONFIG",
            line,
        };
        for (origin, shown) in [
            (file, "/etc/nix/nix.conf:3"),
            (env(Some(2)), "$NIX_CONFIG:2"),
            (env(None), "$NIX_CONFIG"),
            (Origin::Flag("--host"), "--host"),
            (Origin::BuiltIn, "the built-in default"),
        ] {
            assert_eq!(origin.to_string(), shown);
        }
    }
}
