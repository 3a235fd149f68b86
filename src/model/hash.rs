//! SHA-256 hashes of NARs, in the four spellings that Nix uses.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;

use super::base64;

const LEN: usize = 32;

/// The SHA-256 of a NAR. Printed as `sha256:` and 52 characters of Nix's base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NarHash([u8; LEN]);

/// Why a string is not a NAR hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a NAR hash: expected sha256: and 52 base32, 64 base16 or 44 base64 characters"
)]
pub struct HashError {
    text: String,
}

impl NarHash {
    /// A hash from its 32 bytes.
    #[must_use]
    pub fn new(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// The 52 characters of Nix's base32, without the `sha256:`.
    #[must_use]
    pub fn base32(&self) -> String {
        nix_base32::to_nix_base32(&self.0)
    }

    /// The 64 lower-case hexadecimal digits, without the `sha256:`.
    #[must_use]
    pub fn base16(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl FromStr for NarHash {
    type Err = HashError;

    /// Reads `sha256:` + base32, base16 or base64, and `sha256-` + base64 (SRI).
    fn from_str(text: &str) -> Result<Self, HashError> {
        parse(text).map(Self).ok_or_else(|| HashError {
            text: text.chars().take(100).collect(),
        })
    }
}

fn parse(text: &str) -> Option<[u8; LEN]> {
    let digits = text
        .strip_prefix("sha256:")
        .or_else(|| text.strip_prefix("sha256-").filter(|d| d.len() == 44))?;
    let bytes = match digits.len() {
        52 => nix_base32::from_nix_base32(digits)?,
        64 => HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?,
        44 => base64::decode(digits)?,
        _ => return None,
    };
    bytes.try_into().ok()
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.base32())
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::NarHash;

    // SHA-256 of the empty string, as `nix hash to-base32` and friends print it.
    const SPELLINGS: [&str; 4] = [
        "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    ];

    #[test]
    fn all_spellings_are_one_hash() {
        for spelling in SPELLINGS {
            let hash: NarHash = spelling.parse().unwrap();
            assert_eq!(hash.to_string(), SPELLINGS[0]);
            assert_eq!(format!("sha256:{}", hash.base16()), SPELLINGS[1]);
        }
    }

    #[test]
    fn refuses_what_is_no_hash() {
        for text in [
            "",
            "sha256:",
            "md5:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3g=uFUx",
            "sha256:zmdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9ce3",
            "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert!(text.parse::<NarHash>().is_err(), "{text}");
        }
    }
}
