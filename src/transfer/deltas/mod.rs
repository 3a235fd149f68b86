//! Paths as differences from what this machine has already.
//!
//! A rebuild, or the next version, of a path that is in a store here shares most of its bytes with it. Over a slow link
//! the host is asked for the differences only: a file that is the same here is copied, one that is similar comes as
//! `zstd --patch-from` makes it of the two versions that the host has, and the rest comes compressed. Nothing but a shell
//! with `zstd` is needed there, and nothing is written there.
//!
//! What is put together is verified as everything is, by the NAR hash. When it cannot be, the version here is blamed and
//! not the host, and the path comes in another way.
//!
//! ```text
//!   decide ──▶ request the listing, and the digests of files that the version here has
//!          ──▶ Plan: framing | file from here | file from the host (a patch, or compressed in groups)
//!          ──▶ DeltaFetch brings the NAR in order
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `candidates` | which paths are fetched so, and from which version here |
//! | `base_files` | the files of a version here |
//! | `matching` | which file there is another version of which file here; pure |
//! | `plan` | where each byte of the NAR comes from; pure |
//! | `delta_fetch` | one path on one shell |

mod base_files;
mod candidates;
mod delta_fetch;
mod delta_options;
mod fault;
mod matching;
mod plan;

use std::path::PathBuf;

use crate::model::{NarHash, StorePath};

pub(in crate::transfer) use candidates::{ChosenBase, DeltaState, Deltas};
pub(in crate::transfer) use delta_fetch::DeltaFetch;
pub(in crate::transfer) use fault::DeltaFault;

/// A store path that this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The path.
    pub path: StorePath,
    /// Where its files are.
    pub files: PathBuf,
    /// The hash of its NAR, where it is known.
    pub nar_hash: Option<NarHash>,
}

/// Which other versions of paths this machine has.
pub trait BaseLookup: Send + Sync {
    /// For each of these paths the other versions that are here, the most similar first, at most
    /// [`BASES_MAX`](super::BASES_MAX) of each. Blocks.
    fn find(&self, wanted: &[StorePath]) -> Vec<Vec<Base>>;
}

/// How many versions of a path are considered.
pub const BASES_MAX: usize = 4;
