//! Leaves out of an info what no Nix can parse. Content address and signatures are not part of what is signed,
//! so a host with a properly signed path can put anything into them; and Nix ends a whole command at an
//! address it cannot parse (`libstore/content-address.cc`) or at a signature of a known key that is no
//! base64 of 64 bytes (`libstore/crypto.cc`).
//!
//! ```text
//! address = ( "text:" | "fixed:" [ "r:" | "git:" ] ) ALGORITHM ":" HASH
//! ```
//!
//! ALGORITHM is `md5`, `sha1`, `sha256`, `sha512` or `blake3`, HASH base16, base32 or base64. Not every Nix
//! reads all of these: `text:` with anything but SHA-256 needs 2.16, `git:` 2.21, `blake3` 2.27 or newer, the
//! last two with their experimental features. What of them a store holds is passed on as `nix-store --serve`
//! would pass it on.

use data_encoding::HEXLOWER_PERMISSIVE;

use super::signature::is_well_formed;
use super::{PathInfo, base64};

/// Names of hashes, and their lengths in bytes.
const HASHES: [(&str, usize); 5] = [
    ("md5", 16),
    ("sha1", 20),
    ("sha256", 32),
    ("sha512", 64),
    ("blake3", 32),
];

impl PathInfo {
    /// The same without a content address or signatures that no Nix can read. All others are left as
    /// they came.
    #[must_use]
    pub fn sanitized(&self) -> Self {
        let mut info = self.clone();
        info.ca = info.ca.filter(|address| is_address(address));
        info.sigs.retain(|signature| is_well_formed(signature));
        info
    }
}

/// See the head of this module.
fn is_address(address: &str) -> bool {
    if let Some(hash) = address.strip_prefix("text:") {
        return is_hash(hash);
    }
    let Some(rest) = address.strip_prefix("fixed:") else {
        return false;
    };
    let method = ["r:", "git:"]
        .iter()
        .find(|method| rest.starts_with(**method));
    is_hash(&rest[method.map_or(0, |method| method.len())..])
}

fn is_hash(hash: &str) -> bool {
    let Some((name, digits)) = hash.split_once(':') else {
        return false;
    };
    let length = HASHES.iter().find(|(known, _)| *known == name);
    let Some((_, length)) = length.copied() else {
        return false;
    };
    let bytes = if digits.len() == 2 * length {
        HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()
    } else if digits.len() == (8 * length).div_ceil(5) {
        nix_base32::from_nix_base32(digits)
    } else {
        base64::decode(digits)
    };
    bytes.is_some_and(|bytes| bytes.len() == length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples;

    #[test]
    fn addresses_that_nix_reads_are_kept() {
        for address in [
            "text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
            "fixed:sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "fixed:r:sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "fixed:sha1:pplp5izjnj9j7sbk2hwv7dkbswqf61yj",
            "fixed:r:sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "fixed:md5:d41d8cd98f00b204e9800998ecf8427e",
            "fixed:r:md5:1B2M2Y8AsgTpgAmY7PhCfg==",
            "fixed:git:sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "fixed:git:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "fixed:blake3:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "fixed:r:blake3:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "text:sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "text:blake3:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert!(is_address(address), "{address}");
        }
        for address in [
            "",
            "text",
            "text:",
            "no address",
            "fixed:",
            "fixed:r:",
            "fixed:sha256:xyz",
            "fixed:sha3:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
            "fixed:git:",
            "fixed:git:r:sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "fixed:r:git:sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "text:r:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
            "fixed:blake3:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "fixed:r:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "fixed:md5:1B2M2Y8AsgTpgAmY7PhCfg==1B2M2Y8AsgTpgAmY7PhCfg==",
            "text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq ",
            "fixed:sha256:\u{1b}[2J",
            "fixed:sha256:ééééééééééééééééééééééééééééééééééé",
        ] {
            assert!(!is_address(address), "{address}");
        }
    }

    #[test]
    fn what_can_be_read_is_left_as_it_came() {
        let signed = samples::signed();
        assert_eq!(signed.sanitized(), signed);
        let mut more = signed.clone();
        more.ca = Some("no address".to_owned());
        for bad in [
            "",
            "x",
            ":AAAA",
            "test-1:",
            "test-1:!!!",
            "test-1:AAAA",
            "a\n:AAAA",
        ] {
            more.sigs.push(bad.to_owned());
        }
        assert_eq!(more.sanitized(), signed);
    }
}
