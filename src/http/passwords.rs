//! Names and passwords of clients (HTTP basic authentication, RFC 7617), as Nix sends them from its netrc file.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use hyper::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};

use crate::hint::Hint;

/// Longest password file, in bytes.
const FILE_MAX: u64 = 64 << 10;

/// Who may read. Only digests are kept: comparing them tells nothing of what they were made of.
#[derive(Clone)]
pub struct Passwords(HashSet<[u8; 32]>);

/// Why a file of passwords is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PasswordsError {
    /// It cannot be read.
    #[error("cannot read the passwords in {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error("line {line} of {} is no name and password", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The number of the line.
        line: usize,
    },
    /// There is nobody in it.
    #[error("there are no passwords in {}", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

impl Hint for PasswordsError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Line { .. } | Self::Empty { .. } => Some(
                "write NAME:PASSWORD on each line; lines that begin with # are left out".to_owned(),
            ),
        }
    }
}

impl Passwords {
    /// Reads a file of lines `NAME:PASSWORD`. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read, is longer than 64 KiB, holds nobody or something else.
    pub fn read(file: &Path) -> Result<Self, PasswordsError> {
        let io = |source| PasswordsError::Read {
            file: file.to_owned(),
            source,
        };
        let mut text = String::new();
        let opened = File::open(file).map_err(io)?;
        let read = opened.take(FILE_MAX + 1).read_to_string(&mut text);
        if read.map_err(io)? as u64 > FILE_MAX {
            return Err(io(io::ErrorKind::FileTooLarge.into()));
        }
        let mut known = HashSet::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                    known.insert(digest(line.as_bytes()));
                }
                _ => {
                    let (file, line) = (file.to_owned(), at + 1);
                    return Err(PasswordsError::Line { file, line });
                }
            }
        }
        match known.is_empty() {
            true => Err(PasswordsError::Empty {
                file: file.to_owned(),
            }),
            false => Ok(Self(known)),
        }
    }

    /// Whether a request names somebody with the right password.
    pub(super) fn allow(&self, headers: &HeaderMap) -> bool {
        let value = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let Some((scheme, credentials)) = value.and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let said = BASE64.decode(credentials.trim().as_bytes());
        scheme.eq_ignore_ascii_case("basic")
            && said.is_ok_and(|said| self.0.contains(&digest(&said)))
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passwords", self.0.len())
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn read(text: &str) -> Result<Passwords, PasswordsError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passwords");
        std::fs::write(&file, text).unwrap();
        Passwords::read(&file)
    }

    fn allows(passwords: &Passwords, header: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        passwords.allow(&headers)
    }

    #[test]
    fn only_who_is_in_the_file_is_let_in() {
        let passwords = read("# people\n\nalice:open:sesame\nbob:x\n").unwrap();
        let header = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        for known in ["alice:open:sesame", "bob:x"] {
            assert!(allows(&passwords, &header(known)), "{known}");
        }
        for unknown in [
            "alice:open",
            "alice:",
            "bob:X",
            "x:bob",
            "",
            ":",
            "# people",
        ] {
            assert!(!allows(&passwords, &header(unknown)), "{unknown}");
        }
        assert!(!allows(
            &passwords,
            &header("bob:x").replace("Basic", "Bearer")
        ));
        assert!(!allows(&passwords, "Basic"));
        assert!(!allows(&passwords, "Basic !"));
        assert!(!passwords.allow(&HeaderMap::new()));
        assert!(!format!("{passwords:?}").contains("sesame"));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused() {
        for (text, words) in [
            ("", "there are no passwords"),
            ("# nobody\n", "there are no passwords"),
            ("alice\n", "line 1"),
            ("a:b\nalice:\n", "line 2"),
            (":x\n", "line 1"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(read(&"a:b\n".repeat(20_000)).is_err());
    }
}
