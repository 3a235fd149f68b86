//! What Nix talks about: store paths, NAR hashes, path infos. No IO, no async.

mod hash;
mod info;
mod store_path;

pub use hash::{HashError, NarHash};
pub use info::PathInfo;
pub use store_path::{MAX_PATH_LEN, StorePath, StorePathError};
