//! The requests to a serve loop, and what their replies may hold.

use crate::model::{PathInfo, StorePath};
use crate::wire::serve::{Request, Unreadable};
use crate::wire::{WireError, printable};

/// Paths in one QueryPathInfos: large enough that the round trip is paid rarely, small enough that
/// request and reply stay far below every limit.
pub(super) const INFOS_AT_ONCE: usize = 1000;

/// The requests that ask for the infos of `paths`.
pub(crate) fn path_infos(paths: &[StorePath]) -> impl Iterator<Item = Request> {
    let request = |chunk: &[StorePath]| Request::QueryPathInfos {
        paths: chunk.to_vec(),
    };
    paths.chunks(INFOS_AT_ONCE).map(request)
}

/// The request that asks which of `paths` are there, without substituting or locking: some remotes allow us
/// neither.
pub(crate) fn valid_paths(paths: &[StorePath]) -> Request {
    Request::QueryValidPaths {
        lock: false,
        substitute: false,
        paths: paths.to_vec(),
    }
}

/// An element of the closure of `roots`.
pub(super) fn path_of_closure(bytes: &[u8], roots: &[StorePath]) -> Result<StorePath, Unreadable> {
    let unreadable = |want, got: &dyn std::fmt::Display| Unreadable {
        path: printable(bytes),
        why: WireError::new("path of a closure", want, got),
    };
    let path = StorePath::from_bytes(bytes)
        .map_err(|error| unreadable("STORE-DIR/HASH-NAME".to_owned(), &error))?;
    let is_sibling = |root: &StorePath| root.store_dir() == path.store_dir();
    if roots.iter().any(is_sibling) {
        return Ok(path);
    }
    let store_dir = roots.first().map_or("/", StorePath::store_dir);
    Err(unreadable(format!("a path in {store_dir}"), &path))
}

/// The length of all references of an info, in bytes.
pub(super) fn references(info: &PathInfo) -> usize {
    let lengths = info.references.iter().map(|path| path.as_str().len());
    lengths.sum()
}

/// The request for a closure.
pub(crate) fn closure(paths: &[StorePath], include_outputs: bool) -> Request {
    Request::QueryClosure {
        include_outputs,
        paths: paths.to_vec(),
    }
}

/// The request for a NAR.
pub(crate) fn dump(path: &StorePath) -> Request {
    Request::DumpStorePath { path: path.clone() }
}
