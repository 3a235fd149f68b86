//! The hash part of a store path: what a binary cache over HTTP is asked by.

use std::fmt;
use std::str::FromStr;

use super::StorePath;

/// Length of a hash part in characters.
const LEN: usize = 32;

/// The 32 base32 characters that a store path's base name begins with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HashPart([u8; LEN]);

/// A text is no hash part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 characters of Nix's base32")]
pub struct HashPartError;

impl HashPart {
    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // They were checked to be ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// A path in `store_dir` with this hash and that name; `None` where they make no store path.
    #[must_use]
    pub fn with_name(&self, store_dir: &str, name: &str) -> Option<StorePath> {
        StorePath::parse(&format!("{store_dir}/{self}-{name}")).ok()
    }
}

impl FromStr for HashPart {
    type Err = HashPartError;

    fn from_str(text: &str) -> Result<Self, HashPartError> {
        let bytes: [u8; LEN] = text.as_bytes().try_into().map_err(|_| HashPartError)?;
        match bytes.iter().all(|byte| super::store_path::is_base32(*byte)) {
            true => Ok(Self(bytes)),
            false => Err(HashPartError),
        }
    }
}

impl From<&StorePath> for HashPart {
    fn from(path: &StorePath) -> Self {
        let mut part = [0; LEN];
        part.copy_from_slice(path.hash_part().as_bytes());
        Self(part)
    }
}

impl fmt::Display for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "7rjj86a15146cq1d3qy068lml7n7ykzm";

    #[test]
    fn is_what_a_store_path_begins_with() {
        let part: HashPart = HASH.parse().unwrap();
        assert_eq!(part.to_string(), HASH);
        let path = part.with_name("/nix/store", "hello-2.12").unwrap();
        assert_eq!(path.base_name(), format!("{HASH}-hello-2.12"));
        assert_eq!(HashPart::from(&path), part);
        assert_eq!(part.with_name("/nix/store", "a/b"), None);
    }

    #[test]
    fn what_is_none_is_refused() {
        let long = format!("{HASH}a");
        for text in [
            "",
            &HASH[1..],
            &long,
            &HASH.replace('7', "e"),
            &HASH.to_uppercase(),
            &HASH.replace("7r", "ä"),
        ] {
            assert_eq!(text.parse::<HashPart>(), Err(HashPartError), "{text}");
        }
    }
}
