//! Which content is accepted from which host.
//!
//! An info counts when one of these is so, in this order of looking:
//!
//! 1. the URL of the host says `trusted=true`
//! 2. `require-sigs = false`, and the info tells the NAR hash
//! 3. the path is content-addressed, and its name follows from the address ([`PathInfo::content`]); the
//!    content is checked against it when it arrives (of a path that refers to itself only where nothing else
//!    of this list is so)
//! 4. a key in `trusted-public-keys` has signed it
//!
//! Otherwise that host does not have the path.

mod hint;

use std::sync::Arc;

use crate::config::host::Host;
use crate::model::{AddressError, PathInfo, PublicKey, SignatureError, StorePath, verify};

/// The settings that decide.
#[derive(Debug, Clone)]
pub struct Trust {
    /// `require-sigs`
    pub require_sigs: bool,
    /// `trusted-public-keys`
    pub keys: Arc<[PublicKey]>,
}

/// A host's path is refused.
#[derive(Debug, thiserror::Error)]
#[error("{host}: has {path}, but {}: such paths from there are not used", self.text())]
pub struct Distrust {
    /// The host.
    pub host: String,
    /// The path.
    pub path: StorePath,
    /// Why.
    pub why: Why,
    /// Why it does not count as content-addressed, where it claims to be.
    pub address: Option<AddressError>,
}

/// Why a signature would have been needed and there is none that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The remote is too old to tell a hash; nothing can be signed without.
    NoHash,
    /// The remote tells signatures, but not the size that they are made over.
    NoSize,
    /// No signature counts.
    Unproven(SignatureError),
}

/// A kind of refusal. Each kind is reported once.
pub type Reason = (&'static str, Option<AddressError>);

/// How many names of keys a message shows, and how many characters of each.
const KEY_NAMES_SHOWN: (usize, usize) = (3, 60);

impl Distrust {
    /// The kind of refusal, whatever path it is about.
    #[must_use]
    pub fn reason(&self) -> Reason {
        let kind = match &self.why {
            Why::NoHash => "no hash",
            Why::NoSize => "no size",
            Why::Unproven(SignatureError::Unsigned) => "unsigned",
            Why::Unproven(SignatureError::UnknownKeys(_)) => "unknown keys",
            Why::Unproven(SignatureError::Wrong(_)) => "wrong",
            Why::Unproven(SignatureError::Malformed) => "malformed",
        };
        (kind, self.address)
    }

    fn text(&self) -> String {
        let mut text = match &self.why {
            Why::NoHash => "is too old to tell its NAR hash".to_owned(),
            Why::NoSize => {
                "does not tell the size of its NAR, which is part of what is signed".to_owned()
            }
            Why::Unproven(SignatureError::Unsigned) => "it is not signed".to_owned(),
            Why::Unproven(SignatureError::UnknownKeys(names)) => format!(
                "it is signed by {} only, which trusted-public-keys does not name",
                list(names)
            ),
            Why::Unproven(SignatureError::Wrong(name)) => format!(
                "its signature by {} is wrong: that key signed something else",
                list(std::slice::from_ref(name))
            ),
            Why::Unproven(SignatureError::Malformed) => {
                "its signature cannot be read (expected NAME:BASE64, 64 bytes in base64)".to_owned()
            }
        };
        if let Some(address) = self.address {
            text = format!("{text}, and {address}");
        }
        text
    }
}

/// Names that a remote has sent, quoted, which also escapes control characters.
fn list(names: &[String]) -> String {
    let (most, length) = KEY_NAMES_SHOWN;
    let short = |name: &String| format!("{:?}", name.chars().take(length).collect::<String>());
    let mut shown: Vec<String> = names.iter().take(most).map(short).collect();
    if names.len() > most {
        shown.push(format!("{} more", names.len() - most));
    }
    shown.join(", ")
}

/// What can be said of an info without looking at signatures.
#[derive(Debug)]
pub enum QuickCheck {
    /// It counts.
    Accepted,
    /// It does not.
    Refused(Distrust),
    /// It names a known key: [`Trust::check`] has to verify the signature.
    NeedsVerification,
}

impl Trust {
    /// Whether an info of this host counts, as far as that is known without looking at signatures.
    #[must_use]
    pub fn quick_check(&self, host: &Host, info: &PathInfo) -> QuickCheck {
        let names = |signature: &String| self.keys.iter().any(|key| key.is_named_in(signature));
        let is_open = !host.trusted
            && self.require_sigs
            && info.nar_hash.is_some()
            && info.nar_size > 0
            && info.sigs.iter().any(names)
            && info.content().is_err();
        if is_open {
            return QuickCheck::NeedsVerification;
        }
        match self.check(host, info) {
            Ok(()) => QuickCheck::Accepted,
            Err(distrust) => QuickCheck::Refused(distrust),
        }
    }

    /// Whether an info of this host counts. Each signature that is looked at costs about 0.1 ms.
    ///
    /// # Errors
    /// The reason when it does not.
    pub fn check(&self, host: &Host, info: &PathInfo) -> Result<(), Distrust> {
        if host.trusted {
            return Ok(());
        }
        let (why, address) = match self.without_the_host(info) {
            Ok(()) => return Ok(()),
            Err(reasons) => reasons,
        };
        Err(Distrust {
            host: host.to_string(),
            path: info.path.clone(),
            why,
            // That it has none is the usual case and says nothing.
            address: Some(address).filter(|address| *address != AddressError::None),
        })
    }

    /// Whether the NAR hash in an info of this host would count without its content address. A signature of
    /// a known key costs about 0.1 ms.
    #[must_use]
    pub fn vouches(&self, host: &Host, info: &PathInfo) -> bool {
        host.trusted
            || (!self.require_sigs && info.nar_hash.is_some())
            || info
                .fingerprint()
                .is_some_and(|text| verify(&self.keys, &info.sigs, &text).is_ok())
    }

    fn without_the_host(&self, info: &PathInfo) -> Result<(), (Why, AddressError)> {
        if info.nar_hash.is_none() {
            return Err((Why::NoHash, AddressError::None));
        }
        if !self.require_sigs {
            return Ok(());
        }
        let Err(address) = info.content() else {
            return Ok(());
        };
        let why = match info.fingerprint() {
            Some(fingerprint) => match verify(&self.keys, &info.sigs, &fingerprint) {
                Ok(()) => return Ok(()),
                Err(unproven) => Why::Unproven(unproven),
            },
            None if info.sigs.is_empty() => Why::Unproven(SignatureError::Unsigned),
            None => Why::NoSize,
        };
        Err((why, address))
    }
}

#[cfg(test)]
mod tests;
