//! Narinfos: what a binary cache says of a path.
//!
//! ```text
//! StorePath: /nix/store/HASH-NAME
//! URL: nar/FILEHASH.nar.zst         the file, relative to the cache
//! Compression: zstd
//! FileHash: sha256:BASE32           of the file; left out where it is made while it is sent
//! FileSize: BYTES                   likewise
//! NarHash: sha256:BASE32
//! NarSize: BYTES
//! References: HASH-NAME HASH-NAME …
//! Deriver: HASH-NAME.drv
//! Sig: NAME:BASE64                  one for each signature
//! CA: fixed:r:sha256:…
//! ```

use std::fmt::Write as _;

use crate::model::{NarHash, PathInfo, StorePath};

/// The file that holds the NAR of a path.
#[derive(Debug, Clone, Copy)]
pub struct NarFile<'a> {
    /// Where it is, relative to the cache.
    pub url: &'a str,
    /// How it is compressed, by Nix's name: `none`, `zstd`.
    pub compression: &'static str,
    /// Its SHA-256 and its size in bytes, where they are known beforehand.
    pub file: Option<(NarHash, u64)>,
    /// The SHA-256 of the NAR.
    pub nar_hash: NarHash,
    /// Its size in bytes.
    pub nar_size: u64,
}

/// The text of a narinfo. Signatures are passed on as they came: Nix checks them.
#[must_use]
pub fn render(info: &PathInfo, nar: &NarFile<'_>) -> String {
    let references: Vec<_> = info.references.iter().map(StorePath::base_name).collect();
    let mut text = format!(
        "StorePath: {}\nURL: {}\nCompression: {}\n",
        info.path, nar.url, nar.compression
    );
    // Writing to a string cannot fail.
    if let Some((hash, size)) = nar.file {
        let _ = writeln!(text, "FileHash: {hash}\nFileSize: {size}");
    }
    let _ = write!(
        text,
        "NarHash: {}\nNarSize: {}\nReferences: {}\n",
        nar.nar_hash,
        nar.nar_size,
        references.join(" "),
    );
    if let Some(deriver) = &info.deriver {
        let _ = writeln!(text, "Deriver: {}", deriver.base_name());
    }
    for sig in info.sigs.iter().filter(|sig| is_one_line(sig)) {
        let _ = writeln!(text, "Sig: {sig}");
    }
    if let Some(ca) = info.ca.as_ref().filter(|ca| is_one_line(ca)) {
        let _ = writeln!(text, "CA: {ca}");
    }
    text
}

/// Whether text from a host cannot become a line of its own.
fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
