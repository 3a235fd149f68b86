//! What NARs are called.
//!
//! ```text
//! nar/NARHASH-HASH-NAME.nar        52 and 32 characters of Nix's base32, and the name of the store path
//! nar/NARHASH-HASH-NAME.nar.zst    the same NAR, compressed
//! ```
//!
//! So any process can serve what another one has advertised, and never serves another NAR in its place.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::model::{NarHash, StorePath};

/// What of the characters of store paths means something else in a URL.
const ENCODED: &AsciiSet = &CONTROLS.add(b'?').add(b'%').add(b'#').add(b' ');

/// How all of them begin.
const FOLDER: &str = "nar/";

/// How the names of compressed ones end.
const PACKED: &str = ".zst";

/// Length of the base32 of a NAR hash.
const HASH_LEN: usize = 52;

/// A NAR of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NarName {
    pub(super) path: StorePath,
    pub(super) hash: NarHash,
    /// Whether it is sent compressed with zstd.
    pub(super) is_packed: bool,
}

impl NarName {
    /// The URL, relative to the cache.
    pub(super) fn url(&self) -> String {
        let name = utf8_percent_encode(self.path.base_name(), ENCODED);
        let end = if self.is_packed { PACKED } else { "" };
        format!("{FOLDER}{}-{name}.nar{end}", self.hash.base32())
    }

    /// From a URL relative to the cache, of paths in `store_dir`.
    pub(super) fn parse(url: &str, store_dir: &str) -> Option<Self> {
        let name = url.strip_prefix(FOLDER)?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        let (name, is_packed) = match name.strip_suffix(PACKED) {
            Some(name) => (name, true),
            None => (&*name, false),
        };
        let (hash, rest) = name.strip_suffix(".nar")?.split_at_checked(HASH_LEN)?;
        let name = rest.strip_prefix('-').filter(|name| !name.contains('/'))?;
        Some(Self {
            path: StorePath::parse(&format!("{store_dir}/{name}")).ok()?,
            hash: format!("sha256:{hash}").parse().ok()?,
            is_packed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/nix/store";

    #[test]
    fn a_url_says_which_nar_of_which_path() {
        let names = ["hello-2.12", "a?b=c+d", ".p10k.zsh", "a.nar", "a.nar.zst"];
        for (name, is_packed) in names
            .into_iter()
            .flat_map(|name| [(name, false), (name, true)])
        {
            let path = format!("{DIR}/7rjj86a15146cq1d3qy068lml7n7ykzm-{name}");
            let name = NarName {
                path: StorePath::parse(&path).unwrap(),
                hash: NarHash::new([7; 32]),
                is_packed,
            };
            let url = name.url();
            assert!(!url.contains(['?', '#', ' ']), "{url}");
            assert_eq!(NarName::parse(&url, DIR), Some(name));
        }
    }

    #[test]
    fn what_is_no_such_url_is_refused() {
        let hash = NarHash::new([7; 32]).base32();
        let path = "7rjj86a15146cq1d3qy068lml7n7ykzm-a";
        let good = format!("nar/{hash}-{path}.nar");
        assert!(NarName::parse(&good, DIR).is_some());
        for url in [
            String::new(),
            format!("/{good}"),
            good.replace(".nar", ".nar.xz"),
            good.replace(".nar", ".zst"),
            good.replace(".nar", ".nar.zst.zst"),
            good.replace("nar/", "nar/../nar/"),
            good.replace(&hash, &hash[1..]),
            good.replace(&hash, &"e".repeat(52)),
            good.replace(path, &format!("../{path}")),
            good.replace(path, &format!("..%2f{path}")),
            good.replace(path, "%ff"),
            format!("nar/{}", "ä".repeat(60)),
        ] {
            assert_eq!(NarName::parse(&url, DIR), None, "{url}");
        }
    }
}
