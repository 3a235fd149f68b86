//! Content addresses: the name of such a path follows from its contents, so no signature is needed.
//!
//! | `ca` of the info | hash of | how Nix makes such paths |
//! | --- | --- | --- |
//! | `text:sha256:H` | the contents of a file | `builtins.toFile`, derivations |
//! | `fixed:sha256:H` | the contents of a file | `nix-store --add-fixed sha256`, `fetchurl` |
//! | `fixed:r:sha256:H` | the NAR; where a path refers to itself, with its own hash part left out | `nix-store --add`, `fetchgit`, content-addressed derivations |
//!
//! H is base32, base16 or base64. Everything else (`fixed:sha1:…`, `fixed:r:md5:…`, `fixed:git:…`) proves
//! nothing here: those hashes can be forged, or are checked by hardly anybody.
//!
//! The name (Nix, `StoreDirConfig::makeStorePath` and its callers):
//!
//! ```text
//! path        = store-dir "/" base32(fold(sha256(fingerprint))) "-" name
//! fingerprint = type ":sha256:" digest ":" store-dir ":" name       ; digest in base16
//!
//! text:       type = "text"   { ":" reference }                      digest = H
//! recursive:  type = "source" { ":" reference } [ ":self" ]          digest = H
//! flat:       type = "output:out"                 digest = sha256("fixed:out:sha256:" H ":")
//! ```
//!
//! References are whole paths in their order, without the path itself; `:self` stands for that. `fold`
//! leaves 160 bits: byte i of the hash is xored into byte i mod 20.

use std::fmt::Write;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::{NarHash, PathInfo, StorePath};

/// Length of a store path's hash part, in bytes.
const HASH_PART_BYTES: usize = 20;

/// What the NAR of a content-addressed path has to be. That its name follows from this has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A NAR with the NAR hash of the info: that hash is the address.
    Nar,
    /// A NAR that has this hash when the path's own hash part is left out of it.
    NarWithoutSelf([u8; 32]),
    /// One regular file whose contents have this hash.
    File {
        /// SHA-256 of the contents.
        hash: [u8; 32],
        /// Whether the file may be executable: an address does not say.
        executable: bool,
    },
}

/// Why a path does not count as content-addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AddressError {
    /// Its info has no content address.
    #[error("it has no content address")]
    None,
    /// The address cannot be read, or is of a kind that proves nothing.
    #[error("its content address is not one of text, flat or recursive with SHA-256")]
    Kind,
    /// The address gives another path.
    #[error("its content address gives another name")]
    OtherName,
    /// The address contradicts the NAR hash in the same info.
    #[error("its content address contradicts its NAR hash")]
    OtherHash,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Text,
    Flat,
    Recursive,
}

impl PathInfo {
    /// What the content address demands of the NAR.
    ///
    /// # Errors
    /// When there is no address that proves anything, or it does not lead to this path.
    pub fn content(&self) -> Result<Content, AddressError> {
        let address = self.ca.as_deref().ok_or(AddressError::None)?;
        let (method, hash) = parse(address).ok_or(AddressError::Kind)?;
        let refers_to_itself = self.references.contains(&self.path);
        if self.hash_part(method, hash, refers_to_itself).as_deref() != Some(self.path.hash_part())
        {
            return Err(AddressError::OtherName);
        }
        let hash = *hash.as_bytes();
        match method {
            // Nix never writes an executable one.
            Method::Text => Ok(Content::File {
                hash,
                executable: false,
            }),
            // `nix store add-file` keeps the bit.
            Method::Flat => Ok(Content::File {
                hash,
                executable: true,
            }),
            Method::Recursive if refers_to_itself => Ok(Content::NarWithoutSelf(hash)),
            Method::Recursive if self.nar_hash == Some(NarHash::new(hash)) => Ok(Content::Nar),
            Method::Recursive => Err(AddressError::OtherHash),
        }
    }

    /// What the path's name has to begin with. `None` when no such path can be: only some may have
    /// references.
    fn hash_part(&self, method: Method, hash: NarHash, refers_to_itself: bool) -> Option<String> {
        let (mut kind, digest) = match method {
            Method::Text if refers_to_itself => return None,
            Method::Text => ("text".to_owned(), hash.base16()),
            Method::Recursive => ("source".to_owned(), hash.base16()),
            Method::Flat if !self.references.is_empty() => return None,
            Method::Flat => {
                let inner = Sha256::digest(format!("fixed:out:sha256:{}:", hash.base16()));
                ("output:out".to_owned(), HEXLOWER.encode(&inner))
            }
        };
        for reference in self.references.iter().filter(|other| **other != self.path) {
            // Writing to a string cannot fail.
            let _ = write!(kind, ":{reference}");
        }
        if refers_to_itself {
            kind.push_str(":self");
        }
        Some(hash_part(&kind, &digest, &self.path))
    }
}

/// The hash part of a path with the store directory and the name of `like`.
fn hash_part(kind: &str, digest: &str, like: &StorePath) -> String {
    let (dir, name) = (like.store_dir(), like.name());
    let hash = Sha256::digest(format!("{kind}:sha256:{digest}:{dir}:{name}"));
    let mut folded = [0; HASH_PART_BYTES];
    for (place, byte) in hash.iter().enumerate() {
        folded[place % HASH_PART_BYTES] ^= byte;
    }
    nix_base32::to_nix_base32(&folded)
}

/// Method and SHA-256 of a content address.
fn parse(address: &str) -> Option<(Method, NarHash)> {
    let (method, hash) = if let Some(hash) = address.strip_prefix("text:") {
        (Method::Text, hash)
    } else {
        let rest = address.strip_prefix("fixed:")?;
        match rest.strip_prefix("r:") {
            Some(hash) => (Method::Recursive, hash),
            None => (Method::Flat, rest),
        }
    };
    // With a hyphen instead of the colon it would be an SRI hash, which has no place here.
    let hash = Some(hash).filter(|hash| hash.starts_with("sha256:"))?;
    Some((method, hash.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::{self, info};

    const TEXT: &str = "q3laishhmk84vl44j1973qpzkyhmr90c-text";

    fn text() -> PathInfo {
        let hash = "sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM=";
        let ca = "text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq";
        info(TEXT, hash, 120, &[], ca)
    }

    fn text_with_reference() -> PathInfo {
        let hash = "sha256-rJzYAvST6bj01FlAiI3xDIkyzhnPuo7FXmikne44z+4=";
        let ca = "text:sha256:0x0fqs08j93gnp813v4pki0g0xsgdd78s5wv5l53id6wjq1d6wmq";
        let name = "837ahhxamrxkf7cdcjhalzr54r29phb3-refs";
        info(name, hash, 168, &[TEXT], ca)
    }

    fn flat() -> PathInfo {
        let hash = "sha256-9ghaZFx/EaQcb/iSvPSo4YWuRiQyJzTrcjW1PHdJ6MM=";
        let ca = "fixed:sha256:1xk2hhjr0f2n4adj1h688wlz59xpl86y1r8bd2pjasg8gy16mikb";
        info("qvhm3byg70qdq3w2fik75qavln97vcjn-file", hash, 120, &[], ca)
    }

    fn recursive() -> PathInfo {
        let hash = "sha256-gxTcWLYy/UXzB8TGbQDwH67zXl2iTwUsdjAHqIBN/qo=";
        let ca = "fixed:r:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543";
        info("s67s2q6mkxq6rrfvpvvp6mik5klch3aq-dir", hash, 648, &[], ca)
    }

    #[test]
    fn what_nix_made_is_content_addressed() {
        let file = |executable: bool| move |content| matches!(content, Content::File { executable: e, .. } if e == executable);
        assert!(text().content().is_ok_and(file(false)));
        assert!(text_with_reference().content().is_ok_and(file(false)));
        assert!(flat().content().is_ok_and(file(true)));
        assert_eq!(recursive().content(), Ok(Content::Nar));
        let itself = samples::refers_to_itself().content();
        assert!(
            matches!(itself, Ok(Content::NarWithoutSelf(_))),
            "{itself:?}"
        );
    }

    #[test]
    fn the_contents_are_what_is_hashed() {
        let hash = |text: &str| <[u8; 32]>::from(Sha256::digest(text));
        let file = |text, executable| Content::File {
            hash: hash(text),
            executable,
        };
        assert_eq!(text().content(), Ok(file("hello\n", false)));
        assert_eq!(flat().content(), Ok(file("flat\n", true)));
    }

    #[test]
    fn all_spellings_of_the_hash_are_read() {
        let mut info = recursive();
        let hash = info.nar_hash.unwrap();
        info.ca = Some(format!("fixed:r:sha256:{}", hash.base16()));
        assert_eq!(info.content(), Ok(Content::Nar));
        let base64 = data_encoding::BASE64.encode(hash.as_bytes());
        info.ca = Some(format!("fixed:r:sha256:{base64}"));
        assert_eq!(info.content(), Ok(Content::Nar));
        info.ca = Some(format!("fixed:r:sha256-{base64}"));
        assert_eq!(info.content(), Err(AddressError::Kind));
    }

    fn elsewhere(path: &StorePath) -> StorePath {
        StorePath::parse(&format!("/other/store/{}", path.base_name())).unwrap()
    }

    #[test]
    fn another_name_store_or_reference_is_another_path() {
        let all = [
            text,
            text_with_reference,
            flat,
            recursive,
            samples::refers_to_itself,
        ];
        for make in all {
            let other_name = |info: &mut PathInfo| {
                info.path = StorePath::parse(&format!("{}x", info.path)).unwrap();
            };
            let other_hash = |info: &mut PathInfo| {
                let ca = info.ca.as_mut().unwrap();
                let last = ca.pop().unwrap();
                // The last digit holds the lowest bits.
                ca.push(if last == '1' { '2' } else { '1' });
            };
            let other_reference = |info: &mut PathInfo| {
                let more = samples::path("zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-more");
                info.references.push(more);
            };
            let itself = |info: &mut PathInfo| {
                if info.references.contains(&info.path) {
                    let path = info.path.clone();
                    info.references.retain(|other| *other != path);
                } else {
                    info.references.push(info.path.clone());
                }
            };
            let other_store = |info: &mut PathInfo| {
                info.path = elsewhere(&info.path);
                info.references = info.references.iter().map(elsewhere).collect();
            };
            let changes: [&dyn Fn(&mut PathInfo); 5] = [
                &other_name,
                &other_hash,
                &other_reference,
                &itself,
                &other_store,
            ];
            for change in changes {
                let mut info = make();
                change(&mut info);
                assert_eq!(info.content(), Err(AddressError::OtherName), "{info:?}");
            }
        }
    }

    #[test]
    fn a_recursive_address_is_the_nar_hash() {
        let mut info = recursive();
        info.nar_hash = flat().nar_hash;
        assert_eq!(info.content(), Err(AddressError::OtherHash));
        info.nar_hash = None;
        assert_eq!(info.content(), Err(AddressError::OtherHash));
    }

    #[test]
    fn one_kind_of_address_is_not_taken_for_another() {
        let mut info = flat();
        info.ca = info.ca.map(|ca| ca.replace("fixed:", "fixed:r:"));
        assert_eq!(info.content(), Err(AddressError::OtherName));
        let mut info = flat();
        info.ca = info.ca.map(|ca| ca.replace("fixed:", "text:"));
        assert_eq!(info.content(), Err(AddressError::OtherName));
        let mut info = text();
        info.ca = info.ca.map(|ca| ca.replace("text:", "fixed:"));
        assert_eq!(info.content(), Err(AddressError::OtherName));
    }

    #[test]
    fn other_addresses_prove_nothing() {
        assert_eq!(samples::signed().content(), Err(AddressError::None));
        let mut info = recursive();
        for address in [
            "",
            "fixed:sha1:pplp5izjnj9j7sbk2hwv7dkbswqf61yj",
            "fixed:r:sha1:js884r7lm5pv20x1h6a1p42mmwi9q5sc",
            "fixed:git:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543",
            "fixed:r:r:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543",
            "fixed:r:sha512:3rvcx0ivajks0jxxbw41351y2yhjm1zn16g86h4zqz2wri8x894ikiallfqb1c6nkkycb0xgfhrgkw6d1csgn78kwfkj2cy3dai4b4k",
            "fixed:r:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq54",
            "fixed:r:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543 ",
            "fixed:r:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543",
            "r:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543",
            "text:r:sha256:1apy9n0ah1rhfqn0akx2bmgg7bhzy006vin40zrlbz9jnrcdq543",
        ] {
            info.ca = Some(address.to_owned());
            assert_eq!(info.content(), Err(AddressError::Kind), "{address:?}");
        }
    }
}
