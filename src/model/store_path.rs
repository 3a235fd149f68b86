//! Store paths: `STORE-DIR/HASH-NAME`.
//!
//! HASH is 32 characters of Nix's base32 (160 bits), NAME is 1 to 211 characters of
//! `A-Za-z0-9+-._?=`; what stands before its first hyphen is neither `.` nor `..` (Nix 2.21 and newer,
//! `libstore/path.cc`, `checkName`). Nix 2.4 to 2.18 take those two as well; Nix before 2.4, 2.19 and
//! 2.20 take no name that begins with a dot. On the wire a store path always travels whole, with its
//! store directory.

use std::fmt;
use std::sync::Arc;

/// Longest store path string, in bytes, that is read from anywhere.
pub const MAX_PATH_LEN: usize = 4096;

const HASH_LEN: usize = 32;
const MAX_NAME_LEN: usize = 211;

/// A syntactically valid store path, for example
/// `/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12`.
///
/// Cheap to clone. Ordered as Nix orders its sets: by base name, then by store directory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StorePath {
    full: Arc<str>,
    /// Length of the store directory, without the slash after it.
    dir_len: usize,
}

/// Why a string is not a store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a store path: {reason}")]
pub struct StorePathError {
    /// The string, cut to a printable length.
    pub path: String,
    /// What a store path would have had there.
    pub reason: &'static str,
}

impl StorePath {
    /// Parses a whole path, store directory included.
    ///
    /// # Errors
    /// When it is not absolute and normalised, or its last component is not `HASH-NAME`.
    pub fn parse(path: &str) -> Result<Self, StorePathError> {
        check(path).map_err(|reason| StorePathError {
            path: path.chars().take(300).collect(),
            reason,
        })?;
        let dir_len = path.rfind('/').unwrap_or(0);
        Ok(Self {
            full: path.into(),
            dir_len,
        })
    }

    /// Parses bytes as they come from the wire.
    ///
    /// # Errors
    /// As [`StorePath::parse`]; bytes that are not UTF-8 are no store path either.
    pub fn from_bytes(path: &[u8]) -> Result<Self, StorePathError> {
        match std::str::from_utf8(path) {
            Ok(path) => Self::parse(path),
            Err(_) => Err(StorePathError {
                path: String::from_utf8_lossy(path).chars().take(300).collect(),
                reason: "it is not UTF-8",
            }),
        }
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The store directory, without a slash at its end; `/nix/store` as a rule.
    #[must_use]
    pub fn store_dir(&self) -> &str {
        &self.full[..self.dir_len]
    }

    /// `HASH-NAME`.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.full[self.dir_len + 1..]
    }

    /// The 32 base32 characters that begin the base name.
    #[must_use]
    pub fn hash_part(&self) -> &str {
        &self.base_name()[..HASH_LEN]
    }

    /// What follows hash and hyphen: `hello-2.12`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.base_name()[HASH_LEN + 1..]
    }

    /// Whether this is a derivation (`….drv`).
    #[must_use]
    pub fn is_derivation(&self) -> bool {
        self.full.ends_with(".drv")
    }
}

fn check(path: &str) -> Result<(), &'static str> {
    if path.len() > MAX_PATH_LEN {
        return Err("it is longer than 4096 bytes");
    }
    let Some((dir, base)) = path.rsplit_once('/') else {
        return Err("it has no store directory");
    };
    if !dir.starts_with('/') {
        return Err("it is not absolute");
    }
    if dir[1..]
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err("its store directory is not normalised");
    }
    if dir.contains(|c: char| c.is_control()) {
        return Err("its store directory holds a control character");
    }
    let base = base.as_bytes();
    if base.len() < HASH_LEN + 2 || base[HASH_LEN] != b'-' {
        return Err("its last part is not HASH-NAME");
    }
    let (hash, name) = (&base[..HASH_LEN], &base[HASH_LEN + 1..]);
    if !hash.iter().all(|b| is_base32(*b)) {
        return Err("its hash part is not 32 characters of Nix's base32");
    }
    if name.len() > MAX_NAME_LEN {
        return Err("its name is longer than 211 characters");
    }
    let first_part = name.split(|b| *b == b'-').next().unwrap_or(name);
    if first_part == b"." || first_part == b".." {
        return Err("its name is . or .., alone or before a hyphen");
    }
    if !name
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(b))
    {
        return Err("its name holds a character other than A-Za-z0-9+-._?=");
    }
    Ok(())
}

pub(super) fn is_base32(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z') && !b"eotu".contains(&byte)
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl Ord for StorePath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.base_name()
            .cmp(other.base_name())
            .then_with(|| self.store_dir().cmp(other.store_dir()))
    }
}

impl PartialOrd for StorePath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::StorePath;

    const HELLO: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12";

    #[test]
    fn splits_into_its_parts() {
        let path = StorePath::parse(HELLO).unwrap();
        assert_eq!(path.store_dir(), "/nix/store");
        assert_eq!(path.hash_part(), "7rjj86a15146cq1d3qy068lml7n7ykzm");
        assert_eq!(path.name(), "hello-2.12");
        assert_eq!(path.to_string(), HELLO);
        assert!(!path.is_derivation());
    }

    #[test]
    fn refuses_what_is_no_store_path() {
        for (path, why) in [
            ("7rjj86a15146cq1d3qy068lml7n7ykzm-a", "no store directory"),
            ("nix/7rjj86a15146cq1d3qy068lml7n7ykzm-a", "absolute"),
            ("/nix/../7rjj86a15146cq1d3qy068lml7n7ykzm-a", "normalised"),
            ("//7rjj86a15146cq1d3qy068lml7n7ykzm-a", "normalised"),
            ("/n\n/7rjj86a15146cq1d3qy068lml7n7ykzm-a", "control"),
            ("/nix/store/", "HASH-NAME"),
            ("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-", "HASH-NAME"),
            ("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykze-a", "base32"),
            ("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-.", ". or .."),
            ("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-..", ". or .."),
            ("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-.-a", ". or .."),
            ("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-..-", ". or .."),
            (
                "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a b",
                "character",
            ),
            ("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-ä", "character"),
        ] {
            let error = StorePath::parse(path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let long = format!("{HELLO}{}", "a".repeat(202));
        assert!(StorePath::parse(&long).is_err());
        assert!(StorePath::parse(&long[..long.len() - 1]).is_ok());
        assert!(StorePath::from_bytes(b"/nix/store/\xff").is_err());
    }

    /// As Nix 2.34.8 takes them.
    #[test]
    fn a_name_may_begin_with_a_dot() {
        for name in [
            ".p10k.zsh",
            "..a",
            "...",
            ".a-b",
            "..a-",
            "-",
            "-.",
            "?",
            ".drv",
        ] {
            let path = format!("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-{name}");
            assert_eq!(StorePath::parse(&path).unwrap().name(), name);
        }
    }

    #[test]
    fn is_ordered_by_base_name_first() {
        let a = StorePath::parse("/z/0rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let b = StorePath::parse("/a/1rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        assert!(a < b);
    }
}
