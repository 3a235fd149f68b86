//! Who answers a front end's requests: one trait, and its implementations. A backend knows nothing of the protocol
//! that its caller speaks.
//!
//! | module | where the answers come from |
//! | --- | --- |
//! | `hosts` | hosts that are reached by ssh, in this process |
//! | `engine` | an engine, over its socket; the hosts directly once there is no engine any more |
//! | `own_login` | an engine, and the hosts that only the caller's own ssh agent can log in to |
//! | `local` | a Nix store on this machine; parts of its NARs too (`segments`) |

mod engine;
mod error;
mod hosts;
mod local;
mod own_login;
mod segments;

use async_trait::async_trait;

pub use engine::{EngineBackend, MakeDirect};
pub use error::{BackendError, DeliveryError, Undelivered};
pub use hosts::HostsBackend;
pub use local::LocalBackend;
pub use own_login::{MakeForHosts, OwnLoginBackend};
pub use segments::{NarSegments, SegmentReply};

use crate::model::{HashPart, PathInfo, StorePath};
use crate::transfer::NarSink;

/// Answers the requests of one caller.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Which of these paths are there; sorted, each once.
    ///
    /// # Errors
    /// When nothing can be answered any more.
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, BackendError>;

    /// The path infos of those of these paths that are there; each once.
    ///
    /// # Errors
    /// When nothing can be answered any more.
    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, BackendError>;

    /// The path info of the path that has this hash part. None either where this backend cannot find paths by their hash parts
    /// alone.
    ///
    /// # Errors
    /// When nothing can be answered any more.
    async fn info_by_hash(&self, _hash: HashPart) -> Result<Option<PathInfo>, BackendError> {
        Ok(None)
    }

    /// These paths and all they refer to; sorted, each once.
    ///
    /// # Errors
    /// When nothing can be answered any more.
    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, BackendError>;

    /// Writes the NAR of a path to `sink`: the very NAR that [`path_infos`](Self::path_infos) has advertised, if it has.
    ///
    /// # Errors
    /// When it cannot be delivered, with what completes the bytes that `sink` has got.
    async fn deliver(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered>;

    /// The log of how a derivation was built. None either where this backend has no logs.
    ///
    /// # Errors
    /// When nothing can be answered any more.
    async fn build_log(&self, _derivation: &StorePath) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(None)
    }

    /// What answers the extension of the serve protocol, where this backend does. It then counts
    /// [`feature_path`](crate::wire::serve::extension::feature_path) as valid.
    fn segments(&self) -> Option<&dyn NarSegments> {
        None
    }

    /// To be called before the process ends: waits, at most about 0.3 s, until the answers of hosts are on disk.
    async fn flush(&self) {}
}
