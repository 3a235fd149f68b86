//! What is signed of a path info.
//!
//! ```text
//! fingerprint = "1;" path ";" nar-hash ";" nar-size ";" references
//! ```
//!
//! `path` is whole, `nar-hash` is `sha256:` and base32, `nar-size` is in bytes and decimal, `references`
//! are whole paths in their order with commas between them (Nix, `ValidPathInfo::fingerprint`). Deriver,
//! content address and download size are not signed.

use std::fmt::Write;

use super::PathInfo;

impl PathInfo {
    /// The text that signatures of this info are made over; `None` when hash or size of the NAR are not
    /// known.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let hash = self.nar_hash?;
        if self.nar_size == 0 {
            return None;
        }
        let mut text = format!("1;{};{hash};{};", self.path, self.nar_size);
        for (place, reference) in self.references.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{reference}");
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use crate::model::samples;

    #[test]
    fn holds_what_is_signed_in_its_order() {
        let info = samples::signed();
        let fingerprint = "1;/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-self;\
            sha256:0awj1k887rgdl5p8yxvd0ldvchg43a5fbib99gq4qpr8212nfbgi;1008;\
            /nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-self,\
            /nix/store/q3laishhmk84vl44j1973qpzkyhmr90c-text";
        assert_eq!(info.fingerprint().as_deref(), Some(fingerprint));
        let mut alone = info.clone();
        alone.references.clear();
        let alone = alone.fingerprint().unwrap();
        assert!(alone.ends_with(";1008;"), "{alone}");
    }

    #[test]
    fn without_hash_or_size_there_is_none() {
        let mut info = samples::signed();
        info.nar_size = 0;
        assert_eq!(info.fingerprint(), None);
        let mut info = samples::signed();
        info.nar_hash = None;
        assert_eq!(info.fingerprint(), None);
    }
}
