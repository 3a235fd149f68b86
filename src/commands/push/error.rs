//! Why a push could not begin.

use std::io;
use std::path::PathBuf;

use crate::commands::GetError;
use crate::hint::Hint;
use crate::model::SecretKeyError;
use crate::push::PushError;

/// Why a push could not begin.
#[derive(Debug, thiserror::Error)]
pub enum PushCommandError {
    /// An argument, or a line on standard input, is no path of the store.
    #[error(transparent)]
    Given(#[from] GetError),
    /// The program is switched off.
    #[error("switched off by use-ssh-substituter = false")]
    SwitchedOff,
    /// There is no host.
    #[error("no hosts to send to: see --to and ssh-substituter-push-hosts")]
    NoHosts,
    /// Standard input cannot be read.
    #[error("cannot read paths from standard input")]
    Stdin(#[source] io::Error),
    /// Standard input has no end.
    #[error("standard input: expected less than {0} bytes of paths, got more")]
    LongStdin(u64),
    /// The key cannot be read.
    #[error("cannot read the secret key in {}", file.display())]
    KeyFile {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no secret key.
    #[error("no secret key in {}: expected NAME:BASE64 of 64 bytes", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: SecretKeyError,
    },
    /// The local store cannot be read, or does not have a path.
    #[error(transparent)]
    Push(#[from] PushError),
}

impl Hint for PushCommandError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Given(error) => error.hint(),
            Self::Push(error) => error.hint(),
            Self::KeyFile { .. } | Self::Key { .. } => Some(
                "make one with 'nix-store --generate-binary-cache-key NAME SECRET-FILE PUBLIC-FILE'"
                    .to_owned(),
            ),
            Self::SwitchedOff | Self::NoHosts | Self::Stdin(_) | Self::LongStdin(_) => None,
        }
    }
}
