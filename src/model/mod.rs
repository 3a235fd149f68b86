//! What Nix talks about: store paths, NAR hashes, path infos, and what proves an info. No IO, no async.

mod base64;
mod content_address;
mod fingerprint;
mod hash;
mod hash_part;
mod health_record;
mod path_info;
#[cfg(test)]
pub(crate) mod samples;
mod sanitize;
mod secret_key;
mod signature;
mod store_path;

pub use content_address::{AddressError, Content};
pub use hash::{HashError, NarHash};
pub use hash_part::{HashPart, HashPartError};
pub use health_record::HealthRecord;
pub use path_info::PathInfo;
pub use secret_key::{SecretKey, SecretKeyError};
pub use signature::{KeyError, PublicKey, SignatureError, verify};
pub use store_path::{MAX_PATH_LEN, StorePath, StorePathError};
