//! The file with the secret key that signs what is sent.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::hint::Hint;
use crate::model::{SecretKey, SecretKeyError};

/// Longest key file, in bytes.
const KEY_FILE_MAX: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read the secret key in {}", file.display())]
    Read {
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
}

impl Hint for KeyFileError {
    fn hint(&self) -> Option<String> {
        let make = "'nix-store --generate-binary-cache-key NAME SECRET-FILE PUBLIC-FILE'";
        Some(format!("make one with {make}"))
    }
}

/// Reads a secret key, as Nix keeps it: `NAME:BASE64`. Blocks.
///
/// # Errors
/// When the file cannot be read, or holds no such key.
pub fn read_secret_key(file: &Path) -> Result<SecretKey, KeyFileError> {
    let io = |source| KeyFileError::Read {
        file: file.to_owned(),
        source,
    };
    let mut text = String::new();
    let mut opened = File::open(file).map_err(io)?.take(KEY_FILE_MAX);
    opened.read_to_string(&mut text).map_err(io)?;
    text.parse().map_err(|source| KeyFileError::Key {
        file: file.to_owned(),
        source,
    })
}
