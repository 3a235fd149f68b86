//! `key generate`: keys that sign store paths.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Status, print};
use crate::hint::Hint;
use crate::model::{SecretKey, SecretKeyError};

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The name cannot be one.
    #[error("{0:?} cannot be the name of a key: it may hold neither colons nor blanks")]
    Name(String),
    /// A file cannot be made.
    #[error("cannot write a key to {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("cannot get random bytes for a key")]
    Random(#[source] io::Error),
}

impl Hint for KeyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Name(_) => {
                Some("use that of the cache and a number, as cache.example.org-1".to_owned())
            }
            Self::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => Some(
                "a key that is there is never replaced: name another file, or remove it".to_owned(),
            ),
            Self::Write { .. } | Self::Random(_) => None,
        }
    }
}

/// `key generate`: puts the secret key into `file`, which only its owner may read, and the public one beside it.
///
/// # Errors
/// When the name cannot be one, or a file is there already or cannot be made.
pub async fn generate_key(name: &str, file: &Path) -> Status {
    let (name, file) = (name.to_owned(), file.to_owned());
    let made = tokio::task::spawn_blocking(move || generate(&name, &file)).await?;
    print(&made?).await?;
    Ok(0)
}

/// Gives the public key.
fn generate(name: &str, file: &Path) -> Result<String, KeyError> {
    let mut seed = [0; 32];
    let random = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed));
    random.map_err(KeyError::Random)?;
    let key = SecretKey::from_seed(name, seed).map_err(|error| match error {
        SecretKeyError::NoName => KeyError::Name(name.chars().take(100).collect()),
        error => KeyError::Random(io::Error::other(error)),
    })?;
    let public = key.to_public_text();
    write(file, &key.to_secret_text(), 0o600)?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".pub");
    write(Path::new(&beside), &public, 0o644)?;
    Ok(public)
}

fn write(file: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let written = options.open(file).and_then(|mut opened| {
        writeln!(opened, "{text}")?;
        opened.sync_all()
    });
    written.map_err(|source| KeyError::Write {
        file: file.to_owned(),
        source,
    })
}
