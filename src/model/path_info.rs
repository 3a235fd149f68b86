//! What a host knows about a store path.

use super::{NarHash, StorePath};

/// A path info, as QueryPathInfos and the classic `info` give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path that this is about.
    pub path: StorePath,
    /// The derivation that built it, when known.
    pub deriver: Option<StorePath>,
    /// The paths it refers to, sorted, each once; may hold `path` itself.
    pub references: Vec<StorePath>,
    /// Bytes to download; 0 when unknown.
    pub download_size: u64,
    /// Size of the NAR in bytes; 0 when unknown.
    pub nar_size: u64,
    /// SHA-256 of the NAR; remotes older than Nix 2.0 (protocol 2.4) do not send it.
    pub nar_hash: Option<NarHash>,
    /// Content address (`text:sha256:…`, `fixed:…`), when the path has one.
    pub ca: Option<String>,
    /// Signatures, `key-name:base64` each, as they came.
    pub sigs: Vec<String>,
}
