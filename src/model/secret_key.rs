//! Secret keys, as `nix-store --generate-binary-cache-key` writes them: `NAME:BASE64` of 64 bytes ed25519.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;

use super::base64;

const SECRET_KEY_LEN: usize = ed25519_compact::SecretKey::BYTES;
const PUBLIC_KEY_LEN: usize = ed25519_compact::PublicKey::BYTES;

/// A key that signs path infos.
#[derive(Clone)]
pub struct SecretKey {
    name: Box<str>,
    key: ed25519_compact::SecretKey,
}

/// Why a text is no secret key. The text itself is never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretKeyError {
    /// There is nothing before a colon, or no colon.
    #[error("it has no name before a colon")]
    NoName,
    /// What follows the colon is no base64.
    #[error("what follows the colon is not base64")]
    NotBase64,
    /// It has as many bytes as public keys have.
    #[error("it has 32 bytes, as a public key has")]
    Public,
    /// It has another length.
    #[error("it has {0} bytes instead of 64")]
    Length(usize),
    /// Its two halves do not belong together.
    #[error("its bytes are not an ed25519 secret key")]
    NoKey,
}

impl FromStr for SecretKey {
    type Err = SecretKeyError;

    fn from_str(text: &str) -> Result<Self, SecretKeyError> {
        let (name, digits) = text
            .trim()
            .split_once(':')
            .filter(|(name, _)| !name.is_empty())
            .ok_or(SecretKeyError::NoName)?;
        let bytes = base64::decode(digits).ok_or(SecretKeyError::NotBase64)?;
        match bytes.len() {
            SECRET_KEY_LEN => {}
            PUBLIC_KEY_LEN => return Err(SecretKeyError::Public),
            len => return Err(SecretKeyError::Length(len)),
        }
        let no_key = |_| SecretKeyError::NoKey;
        let key = ed25519_compact::SecretKey::from_slice(&bytes).map_err(no_key)?;
        // The crate panics over a seed of zeros.
        if bytes[..32].iter().all(|byte| *byte == 0) {
            return Err(SecretKeyError::NoKey);
        }
        // The second half is the public key of the first.
        let seed = ed25519_compact::Seed::from_slice(&bytes[..32]).map_err(no_key)?;
        if ed25519_compact::KeyPair::from_seed(seed).sk != key {
            return Err(SecretKeyError::NoKey);
        }
        let name = name.into();
        Ok(Self { name, key })
    }
}

impl SecretKey {
    /// A key with this name, made of 32 random bytes that nobody else knows.
    ///
    /// # Errors
    /// When the name is empty or holds a colon, white space or a control character, or the bytes are all zeros.
    pub fn from_seed(name: &str, seed: [u8; 32]) -> Result<Self, SecretKeyError> {
        let unfit = |c: char| c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.contains(unfit) {
            return Err(SecretKeyError::NoName);
        }
        if seed == [0; 32] {
            return Err(SecretKeyError::NoKey);
        }
        let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(seed));
        let (name, key) = (name.into(), pair.sk);
        Ok(Self { name, key })
    }

    /// The secret itself, as Nix keeps it: `NAME:BASE64`.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&*self.key))
    }

    /// The public key, as in `trusted-public-keys`: `NAME:BASE64`.
    #[must_use]
    pub fn to_public_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&*self.key.public_key()))
    }

    /// What stands before the colon.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The signature of a [fingerprint](super::PathInfo::fingerprint), as `NAME:BASE64`. The same text has always the
    /// same signature.
    #[must_use]
    pub fn sign(&self, fingerprint: &str) -> String {
        let signature = self.key.sign(fingerprint, None);
        format!("{}:{}", self.name, BASE64.encode(&*signature))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}:…)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PublicKey, samples, verify};

    fn pair() -> (String, PublicKey) {
        let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new([7; 32]));
        let secret = format!("k:{}", BASE64.encode(&*pair.sk));
        let public = format!("k:{}", BASE64.encode(&*pair.pk));
        (secret, public.parse().unwrap())
    }

    #[test]
    fn what_it_signs_is_verified_by_its_public_key() {
        let (secret, public) = pair();
        let key: SecretKey = format!("{secret}\n").parse().unwrap();
        assert_eq!(key.name(), "k");
        let fingerprint = samples::signed().fingerprint().unwrap();
        let signature = key.sign(&fingerprint);
        assert_eq!(key.sign(&fingerprint), signature);
        let (keys, signatures) = ([public], [signature]);
        assert_eq!(verify(&keys, &signatures, &fingerprint), Ok(()));
        assert!(verify(&keys, &signatures, "1;other").is_err());
        assert!(!format!("{key:?}").contains(&secret[2..]));
    }

    #[test]
    fn a_new_key_is_a_pair() {
        let key = SecretKey::from_seed("k-1", [7; 32]).unwrap();
        let (secret, public) = pair();
        assert_eq!(key.to_secret_text(), secret.replace("k:", "k-1:"));
        let public = public.to_string().replace("k:", "k-1:");
        assert_eq!(key.to_public_text(), public);
        let again: SecretKey = key.to_secret_text().parse().unwrap();
        assert_eq!(again.sign("1;x"), key.sign("1;x"));
        for name in ["", "a:b", "a b", "a\n"] {
            assert!(SecretKey::from_seed(name, [7; 32]).is_err(), "{name:?}");
        }
        assert!(SecretKey::from_seed("k", [0; 32]).is_err());
    }

    #[test]
    fn what_is_no_secret_key_is_told_from_what_is() {
        let (secret, public) = pair();
        let error = |text: &str| text.parse::<SecretKey>().err();
        assert_eq!(error(&secret), None);
        assert_eq!(error(""), Some(SecretKeyError::NoName));
        assert_eq!(error(&secret[1..]), Some(SecretKeyError::NoName));
        assert_eq!(error("k:!"), Some(SecretKeyError::NotBase64));
        assert_eq!(error("k:TmSV"), Some(SecretKeyError::Length(3)));
        assert_eq!(error(&public.to_string()), Some(SecretKeyError::Public));
        let zeros = format!("k:{}", BASE64.encode(&[0; 64]));
        assert_eq!(error(&zeros), Some(SecretKeyError::NoKey));
    }
}
