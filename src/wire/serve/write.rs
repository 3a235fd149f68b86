//! The write operations, as a client sends them to `nix-store --serve --write`.
//!
//! ```text
//! op request                                                       reply
//!  9 AddToStoreNar  path deriver nar-hash references time nar-size
//!                   ultimate sigs ca  nar                          1       (from 2.5 on)
//!  4 ImportPaths    { 1 nar 0x4558494e path references deriver 0 } 0   1
//! ```
//!
//! The NAR hash of AddToStoreNar is base16 without a prefix; an unknown deriver and a missing content address are empty
//! strings. The NAR is bare, of exactly `nar-size` bytes. ImportPaths carries no hash, signatures or content address: the
//! server hashes what comes. References must be valid there when a path has come. A server that refuses a path says why
//! on its stderr and ends; there is no other reply than 1.

use bytes::BytesMut;

use super::{Version, put_set};
use crate::model::{NarHash, PathInfo, StorePath};
use crate::wire::{WireError, put_string, put_u64, take};

const IMPORT_PATHS: u64 = 4;
const ADD_TO_STORE_NAR: u64 = 9;

/// Stands behind each NAR of ImportPaths (`EXIN`).
const EXPORT_MAGIC: u64 = 0x4558_494e;

impl Version {
    /// From here there is AddToStoreNar (Nix 2.2).
    pub const WITH_ADD_TO_STORE_NAR: Self = Self::new(2, 5);
}

/// Appends AddToStoreNar of a path with that NAR hash, up to the NAR: exactly `info.nar_size` bytes of it must follow. The
/// time of the registration is left to the server, and the path counts as built elsewhere.
pub fn put_add_to_store_nar(out: &mut Vec<u8>, info: &PathInfo, hash: &NarHash) {
    put_u64(out, ADD_TO_STORE_NAR);
    put_string(out, info.path.as_str().as_bytes());
    put_deriver(out, info);
    put_string(out, hash.base16().as_bytes());
    put_set(out, &info.references);
    put_u64(out, 0);
    put_u64(out, info.nar_size);
    put_u64(out, 0);
    put_u64(out, info.sigs.len() as u64);
    for sig in &info.sigs {
        put_string(out, sig.as_bytes());
    }
    put_string(out, info.ca.as_deref().unwrap_or_default().as_bytes());
}

/// Appends ImportPaths of one path, up to its NAR.
pub fn put_import_start(out: &mut Vec<u8>) {
    put_u64(out, IMPORT_PATHS);
    put_u64(out, 1);
}

/// Appends what follows the NAR of ImportPaths of one path.
pub fn put_import_end(out: &mut Vec<u8>, info: &PathInfo) {
    put_u64(out, EXPORT_MAGIC);
    put_string(out, info.path.as_str().as_bytes());
    put_set(out, &info.references);
    put_deriver(out, info);
    // No signature of the old form, and no further path.
    put_u64(out, 0);
    put_u64(out, 0);
}

fn put_deriver(out: &mut Vec<u8>, info: &PathInfo) {
    let deriver = info.deriver.as_ref().map_or("", StorePath::as_str);
    put_string(out, deriver.as_bytes());
}

/// Takes the reply to one write operation; `None` when it has not come whole.
///
/// # Errors
/// When it is not 1.
pub fn take_acknowledgement(buf: &mut BytesMut) -> Result<Option<()>, WireError> {
    match take(buf, |c| c.u64())? {
        None => Ok(None),
        Some(1) => Ok(Some(())),
        Some(other) => Err(WireError::new("acknowledgement", "1", other)),
    }
}
