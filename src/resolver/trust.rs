//! Which content is accepted from which host.
//!
//! An info counts when its host's URL says `trusted=true` or when `require-sigs = false`.
//! Signatures are not checked yet, so a path that would need one is refused, never waved through.

use crate::config::host::Host;
use crate::model::{PathInfo, StorePath};

/// What decides about content.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// `require-sigs`
    pub require_sigs: bool,
}

/// Why a host's path is refused.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// It would need a signature that can be checked.
    #[error(
        "{host}: has {path}, but is not trusted without signatures, which are not checked yet: its paths are not used"
    )]
    Unsigned {
        /// The host.
        host: String,
        /// The first path of it that was refused.
        path: StorePath,
    },
    /// The remote is too old to tell the hash.
    #[error("{host}: has {path}, but is too old to tell its NAR hash: its paths are not used")]
    NoHash {
        /// The host.
        host: String,
        /// The first path of it that was refused.
        path: StorePath,
    },
}

impl Distrust {
    /// The kind of refusal, for telling each once.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "unsigned",
            Self::NoHash { .. } => "no hash",
        }
    }
}

impl Trust {
    /// Whether an info of this host counts.
    ///
    /// # Errors
    /// The reason when it does not.
    pub fn check(&self, host: &Host, info: &PathInfo) -> Result<(), Distrust> {
        if host.trusted {
            return Ok(());
        }
        let (host, path) = (host.to_string(), info.path.clone());
        if info.nar_hash.is_none() {
            return Err(Distrust::NoHash { host, path });
        }
        if self.require_sigs {
            return Err(Distrust::Unsigned { host, path });
        }
        Ok(())
    }
}
