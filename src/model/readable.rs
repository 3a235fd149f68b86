//! What callers can read of an info. Content address and signatures stand outside of what is signed, so
//! whoever keeps a rightly signed path can add to them what he likes; and Nix ends a whole command at an
//! address it cannot parse (`libstore/content-address.cc`) or at a signature of a known key that is no
//! base64 of 64 bytes (`libstore/crypto.cc`).

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

use super::PathInfo;
use super::signature::is_well_formed;

/// Names of hashes, and their lengths in bytes.
const HASHES: [(&str, usize); 4] = [("md5", 16), ("sha1", 20), ("sha256", 32), ("sha512", 64)];

impl PathInfo {
    /// The same without a content address or signatures that no Nix can read. All others are left as
    /// they came.
    #[must_use]
    pub fn readable(&self) -> Self {
        let mut info = self.clone();
        info.ca = info.ca.filter(|address| is_address(address));
        info.sigs.retain(|signature| is_well_formed(signature));
        info
    }
}

/// `text:sha256:…`, `fixed:HASH` or `fixed:r:HASH`.
fn is_address(address: &str) -> bool {
    if let Some(hash) = address.strip_prefix("text:") {
        return hash.starts_with("sha256:") && is_hash(hash);
    }
    let Some(hash) = address.strip_prefix("fixed:") else {
        return false;
    };
    is_hash(hash.strip_prefix("r:").unwrap_or(hash))
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
        BASE64.decode(digits.as_bytes()).ok()
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
            "fixed:git:sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "text:sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
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
        assert_eq!(signed.readable(), signed);
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
        assert_eq!(more.readable(), signed);
    }
}
