//! Keys and signatures of path infos: ed25519, spelled `NAME:BASE64`.
//!
//! | what | bytes in base64 |
//! | --- | --- |
//! | public key | 32 |
//! | signature | 64 |
//! | secret key, which is never read here | 64 |
//!
//! NAME says which key made a signature; it is whatever stands before the first colon, and not empty
//! (Nix, `libstore/crypto.cc`). What is signed is [`PathInfo::fingerprint`](super::PathInfo::fingerprint).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;

use super::base64;

/// Most signatures of one info that are tried. Each costs about 0.1 ms, a host may send a thousand,
/// and honest infos have one or two.
const MAX_SIGNATURES_TRIED: usize = 32;

const KEY_LEN: usize = ed25519_compact::PublicKey::BYTES;
const SECRET_KEY_LEN: usize = ed25519_compact::SecretKey::BYTES;
const SIGNATURE_LEN: usize = ed25519_compact::Signature::BYTES;

/// A key whose signatures may count. Printed as `NAME:BASE64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: Box<str>,
    key: ed25519_compact::PublicKey,
}

/// Why a text is no public key. The text itself is not shown: it may be a secret key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is nothing before a colon, or no colon.
    #[error("it has no name before a colon")]
    NoName,
    /// What follows the colon is no base64.
    #[error("what follows the colon is not base64")]
    NotBase64,
    /// It has as many bytes as secret keys have.
    #[error("it has 64 bytes, as a secret key has")]
    Secret,
    /// It has another length.
    #[error("it has {0} bytes instead of 32")]
    Length(usize),
    /// No signature can be right for it.
    #[error("its bytes are not an ed25519 public key")]
    NoKey,
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, digits) = split(text).ok_or(KeyError::NoName)?;
        let bytes = base64::decode(digits).ok_or(KeyError::NotBase64)?;
        let bytes: [u8; KEY_LEN] = bytes.try_into().map_err(|bytes: Vec<u8>| {
            if bytes.len() == SECRET_KEY_LEN {
                KeyError::Secret
            } else {
                KeyError::Length(bytes.len())
            }
        })?;
        let key = ed25519_compact::PublicKey::new(bytes);
        key.validate().map_err(|_| KeyError::NoKey)?;
        let name = name.into();
        Ok(Self { name, key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(&*self.key))
    }
}

impl PublicKey {
    /// What stands before the colon.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `signature` (`NAME:BASE64`) says that a key of this name made it. It may be wrong.
    #[must_use]
    pub fn is_named_in(&self, signature: &str) -> bool {
        split(signature).is_some_and(|(name, _)| name == self.name())
    }

    /// Whether this key made `signature` (64 bytes) over `message`.
    fn made(&self, signature: &[u8; SIGNATURE_LEN], message: &str) -> bool {
        let signature = ed25519_compact::Signature::new(*signature);
        self.key.verify(message, &signature).is_ok()
    }
}

/// Why none of an info's signatures is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureError {
    /// There is none.
    Unsigned,
    /// All that can be read are of other keys.
    UnknownKeys(Vec<String>),
    /// One names a known key, but that key did not make it over this info.
    Wrong(String),
    /// No signature can be read.
    Malformed,
}

/// Looks for one signature among `signatures` (`NAME:BASE64` each) that one of `keys` made over
/// `fingerprint`. It is enough, whatever the others are. Several keys may have the same name.
///
/// # Errors
/// When there is none; of several reasons the one that says most: a wrong signature of a known key, then
/// unknown keys, then what cannot be read.
pub fn verify(
    keys: &[PublicKey],
    signatures: &[String],
    fingerprint: &str,
) -> Result<(), SignatureError> {
    let mut unknown: Vec<String> = Vec::new();
    let mut wrong = None;
    let mut tries = 0;
    for signature in signatures {
        let Some((name, signature)) = parse(signature) else {
            continue;
        };
        let mut of_name = keys.iter().filter(|key| key.name() == name).peekable();
        if of_name.peek().is_none() {
            if !unknown.iter().any(|known| known == name) {
                unknown.push(name.to_owned());
            }
            continue;
        }
        for key in of_name {
            if tries == MAX_SIGNATURES_TRIED {
                break;
            }
            tries += 1;
            if key.made(&signature, fingerprint) {
                return Ok(());
            }
        }
        wrong.get_or_insert_with(|| name.to_owned());
    }
    Err(match wrong {
        Some(name) => SignatureError::Wrong(name),
        None if !unknown.is_empty() => SignatureError::UnknownKeys(unknown),
        None if signatures.is_empty() => SignatureError::Unsigned,
        None => SignatureError::Malformed,
    })
}

/// Whether it is `NAME:BASE64` of as many bytes as a signature has.
pub(super) fn is_well_formed(signature: &str) -> bool {
    parse(signature).is_some_and(|(name, _)| !name.contains(char::is_control))
}

fn parse(signature: &str) -> Option<(&str, [u8; SIGNATURE_LEN])> {
    let (name, digits) = split(signature)?;
    let bytes = base64::decode(digits)?;
    Some((name, bytes.try_into().ok()?))
}

/// Name and base64; the name is not empty.
fn split(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::{self, KEY, OTHER_KEY};

    const SIGNATURE: &str = "test-1:fR5UIGBgDTr0L/YlZ3ZQ9mgoruUmj0InlvbiD09KF+E46JbhyJM6GkN1a3fpagJLqKXdVFiWuRMnYsDZEEC4Dw==";
    const OTHER: &str = "k2:OeyLNWLiPJp+SFtyuTMaMhZbk2PPYwfn6ot3XrIOQwZvKUVDg+KwdRZ4qQ5F9I0aBiit1MEtpD2caPVyoJ0JCQ==";

    fn check(keys: &[&str], signatures: &[&str]) -> Result<(), SignatureError> {
        let keys: Vec<PublicKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
        let signatures: Vec<String> = signatures.iter().map(|s| (*s).to_owned()).collect();
        let fingerprint = samples::signed().fingerprint().unwrap();
        verify(&keys, &signatures, &fingerprint)
    }

    fn error(text: &str) -> KeyError {
        text.parse::<PublicKey>().unwrap_err()
    }

    #[test]
    fn what_nix_signed_is_right() {
        assert_eq!(check(&[KEY], &[SIGNATURE]), Ok(()));
        assert_eq!(check(&[OTHER_KEY], &[OTHER]), Ok(()));
        assert_eq!(check(&[OTHER_KEY], &[SIGNATURE, OTHER]), Ok(()));
        assert_eq!(check(&[KEY], &["x", "k2:AAAA", OTHER, SIGNATURE]), Ok(()));
    }

    #[test]
    fn any_other_info_is_not_what_was_signed() {
        let key: PublicKey = KEY.parse().unwrap();
        let info = samples::signed();
        let of = |info: &crate::model::PathInfo| {
            let fingerprint = info.fingerprint().unwrap();
            verify(
                std::slice::from_ref(&key),
                &[SIGNATURE.to_owned()],
                &fingerprint,
            )
        };
        assert_eq!(of(&info), Ok(()));
        let wrong = Err(SignatureError::Wrong("test-1".to_owned()));
        let mut size = info.clone();
        size.nar_size += 1;
        let mut hash = info.clone();
        hash.nar_hash = Some(crate::model::NarHash::new([0; 32]));
        let mut references = info.clone();
        references.references.pop();
        let mut path = info.clone();
        path.path = references.references[0].clone();
        path.path = crate::model::StorePath::parse(&format!("{}x", path.path)).unwrap();
        for other in [size, hash, references, path] {
            assert_eq!(of(&other), wrong, "{other:?}");
        }
        let mut unsigned_part = info;
        unsigned_part.download_size = 7;
        unsigned_part.deriver = None;
        assert_eq!(of(&unsigned_part), Ok(()));
    }

    #[test]
    fn the_reason_that_says_most_is_given() {
        let wrong = |name: &str| {
            let name = name.to_owned();
            Err(SignatureError::Wrong(name))
        };
        let unknown = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Err(SignatureError::UnknownKeys(names))
        };
        assert_eq!(check(&[KEY], &[]), Err(SignatureError::Unsigned));
        assert_eq!(check(&[], &[SIGNATURE, OTHER]), unknown(&["test-1", "k2"]));
        assert_eq!(check(&[KEY], &["x", OTHER, OTHER]), unknown(&["k2"]));
        let forged = OTHER.replace("k2:", "test-1:");
        assert_eq!(check(&[KEY], &[OTHER, &forged]), wrong("test-1"));
        for malformed in [
            "",
            "test-1",
            "test-1:",
            ":fR5UIGBg",
            "test-1:fR5UIGBg",
            "test-1:not base64",
            &SIGNATURE[..SIGNATURE.len() - 4],
            &format!("{SIGNATURE}AAAA"),
            &format!("{SIGNATURE} "),
            &SIGNATURE.replace("==", ""),
        ] {
            let result = check(&[KEY], &[malformed]);
            assert_eq!(result, Err(SignatureError::Malformed), "{malformed:?}");
        }
    }

    #[test]
    fn keys_may_share_a_name() {
        let namesake = OTHER_KEY.replace("k2:", "test-1:");
        assert_eq!(check(&[&namesake, KEY], &[SIGNATURE]), Ok(()));
        assert!(check(&[&namesake], &[SIGNATURE]).is_err());
        assert!(check(&[&KEY.replace("test-1", "Test-1")], &[SIGNATURE]).is_err());
    }

    #[test]
    fn only_so_many_are_tried() {
        let forged = OTHER.replace("k2:", "test-1:");
        let mut signatures = vec![&*forged; MAX_SIGNATURES_TRIED - 1];
        signatures.push(SIGNATURE);
        assert_eq!(check(&[KEY], &signatures), Ok(()));
        signatures.insert(0, &forged);
        assert!(check(&[KEY], &signatures).is_err());
    }

    #[test]
    fn a_key_is_printed_as_it_was_read() {
        let key: PublicKey = KEY.parse().unwrap();
        assert_eq!(key.name(), "test-1");
        assert_eq!(key.to_string(), KEY);
        assert!(key.is_named_in(SIGNATURE) && !key.is_named_in(OTHER));
    }

    #[test]
    fn what_is_no_key_is_told_from_what_is() {
        assert_eq!(error(""), KeyError::NoName);
        assert_eq!(error("test-1"), KeyError::NoName);
        assert_eq!(error(&KEY["test-1".len()..]), KeyError::NoName);
        assert_eq!(error("test-1:"), KeyError::Length(0));
        assert_eq!(error("test-1:TmSV"), KeyError::Length(3));
        assert_eq!(error("test-1:TmSV!"), KeyError::NotBase64);
        assert_eq!(error("test-1:TmQ=TmSV"), KeyError::NotBase64);
        assert_eq!(error(&KEY.replace('=', "")), KeyError::NotBase64);
        assert_eq!(error(SIGNATURE), KeyError::Secret);
        let zeros = format!("zero:{}", BASE64.encode(&[0; 32]));
        assert_eq!(error(&zeros), KeyError::NoKey);
    }
}
