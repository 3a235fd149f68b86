//! What can go wrong with `get`, apart from what hosts do.

use std::io;
use std::path::PathBuf;

use crate::hint::Hint;
use crate::model::{StorePath, StorePathError};
use crate::transfer::unpack::UnpackError;
use crate::wire::WireError;

/// Why `get` could not begin, or could not put something where it belongs.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// An argument is not a store path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// An argument leads somewhere else than into the store.
    #[error("{given:?} is not in the store: expected a path in {store_dir}, got {}", led_to.display())]
    NotInStore {
        /// The argument.
        given: String,
        /// The store directory of the configuration.
        store_dir: String,
        /// Where its symlinks lead.
        led_to: PathBuf,
    },
    /// Symlinks lead to each other.
    #[error("{given:?}: expected at most {most} symlinks one after the other, got more")]
    Links {
        /// The argument.
        given: String,
        /// How many are followed.
        most: usize,
    },
    /// `--to` names nothing that can be written to.
    #[error("--to {given:?}: expected a folder or file:///FOLDER, got {got}")]
    Destination {
        /// The argument.
        given: String,
        /// What it is.
        got: &'static str,
    },
    /// The file system refuses.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "write", "make", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Another run has held the folder for too long.
    #[error(
        "{} is in use: another process has been putting paths there for {minutes} minutes",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// How long was waited.
        minutes: u64,
    },
    /// A registration cannot be parsed.
    #[error("{}, line {line}: expected {expected}, got {got:?}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there in a proper file.
        expected: &'static str,
        /// What was there, cut to a printable length.
        got: String,
    },
    /// A registration is too long.
    #[error("{}: expected at most {most} bytes, got more", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// How many are read.
        most: u64,
    },
    /// The folder is a binary cache for other store paths.
    #[error("{} is a binary cache for paths in {got}: expected {expected}", folder.display())]
    OtherStore {
        /// The folder.
        folder: PathBuf,
        /// The store directory of the configuration.
        expected: String,
        /// That of the cache.
        got: String,
    },
    /// The path could not be restored.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The local Nix failed.
    #[error(transparent)]
    Nix(#[from] NixError),
    /// The closure is larger than any.
    #[error("the closure has more than {0} paths")]
    TooMany(usize),
    /// A thread of the program ended before its time.
    #[error("a thread has ended: {0}")]
    Thread(String),
}

impl Hint for GetError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Nix(error) => error.hint(),
            Self::Format { .. } => {
                Some("move that file away: paths that are there are registered anew".to_owned())
            }
            Self::Path(_)
            | Self::NotInStore { .. }
            | Self::Links { .. }
            | Self::Destination { .. }
            | Self::Io { .. }
            | Self::InUse { .. }
            | Self::TooLong { .. }
            | Self::OtherStore { .. }
            | Self::Unpack(_)
            | Self::TooMany(_)
            | Self::Thread(_) => None,
        }
    }
}

impl GetError {
    /// Whether the command line is to blame.
    pub(in crate::commands) fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Path(_) | Self::NotInStore { .. } | Self::Links { .. } | Self::Destination { .. }
        )
    }
}

/// Why the installed Nix did not take a path.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// There is none.
    #[error("cannot find nix-store in PATH or in the usual places")]
    Missing,
    /// It cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It is older than what is needed.
    #[error(
        "the nix-store on this machine is too old to be written to: expected serve protocol \
         {expected} (Nix 2.2) or newer, got {got}"
    )]
    TooOld {
        /// The oldest version that will do.
        expected: String,
        /// What it speaks.
        got: String,
    },
    /// It exited, which is how it refuses something.
    #[error("the local nix-store ended during {doing}: {said}")]
    Ended {
        /// What was asked of it.
        doing: String,
        /// Its last words.
        said: String,
    },
    /// It was silent.
    #[error("the local nix-store has been silent for {seconds} s during {doing}")]
    Silent {
        /// What was asked of it.
        doing: String,
        /// For how long.
        seconds: u64,
    },
    /// Its reply cannot be parsed.
    #[error("the local nix-store answered wrongly during {doing}")]
    Protocol {
        /// What was asked of it.
        doing: String,
        /// What is wrong.
        source: WireError,
    },
    /// Nix takes no path without a hash, which the host is too old to report.
    #[error("cannot put {0} into the store: the host is too old to tell its NAR hash and size")]
    NoHash(StorePath),
}

impl Hint for NixError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Missing => "install Nix, or put the paths into a folder with --to",
            Self::Ended { said, .. } if said.contains("signature") => {
                "the daemon takes unsigned paths from its trusted-users only: sign them with a key in trusted-public-keys of its nix.conf, or run this as root"
            }
            Self::Ended { doing, said }
                if doing.contains("addition") && said.contains("is not valid") =>
            {
                "Nix takes a path when all that it refers to is there: leave out --no-closure"
            }
            Self::Ended { .. }
            | Self::Start { .. }
            | Self::TooOld { .. }
            | Self::Silent { .. }
            | Self::Protocol { .. }
            | Self::NoHash(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// An error of the file system about `path`; for `map_err`.
pub(super) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> GetError {
    let path = path.into();
    move |source| GetError::Io {
        action,
        path,
        source,
    }
}
