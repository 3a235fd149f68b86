//! Paths as differences from what this machine has already.
//!
//! A rebuild, or the next version, of a path that is in a store here shares most of its bytes with it. Over a slow link
//! the host is asked for the differences only: a file that is the same here is copied, one that is similar comes as
//! `zstd --patch-from` makes it of the two versions that the host has, and the rest comes compressed. Nothing but a shell
//! with `zstd`, or our program, is needed there, and nothing is written there.
//!
//! What is put together is verified as everything is, by the NAR hash. When it cannot be, the version here is blamed and
//! not the host, and the path comes in another way.
//!
//! A rebuild is often the same but for hashes of store paths, which its path info names: then nothing has to come at all.
//!
//! ```text
//!   decide ──▶ Rebuild: the version here with other hashes in it, if that is the wanted NAR; else
//!   decide ──▶ request a survey of some paths: their listings, and the digests of files that the versions here have
//!          ──▶ the digests of the blocks of large files that are not the same here, and cannot come as patches
//!          ──▶ Plan: framing | file or block from here | from the host (a patch, or compressed in groups)
//!          ──▶ DeltaFetch brings the NARs in order
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `rebuild` | paths that are made from what is here alone |
//! | `rewrite` | hashes that take the place of others; pure |
//! | `candidates` | which paths are fetched so, and from which version here |
//! | `chosen_base` | the version here that one path comes from, and its files as the host has them |
//! | `base_files` | the files of a version here |
//! | `blocks` | which blocks of a file are here, where it is not |
//! | `matching` | which file there is another version of which file here; pure |
//! | `patching` | which files come as patches, and in which parts; pure |
//! | `plan` | where each byte of the NARs comes from; pure |
//! | `planning` | asks what there is, and makes the plan |
//! | `replies` | waits for what a host sends, as long as it does |
//! | `delta_fetch` | some paths from one host, over one channel |

mod base_files;
mod blocks;
mod candidates;
mod chosen_base;
mod delta_fetch;
mod delta_options;
mod fault;
mod matching;
mod patching;
mod plan;
mod planning;
mod rebuild;
mod replies;
mod rewrite;

use std::io;
use std::path::PathBuf;

use crate::model::{NarHash, PathInfo, StorePath};

pub(in crate::transfer) use candidates::{DeltaState, Deltas};
pub(in crate::transfer) use chosen_base::{ChosenBase, Wanted};
pub(in crate::transfer) use delta_fetch::{Brought, DeltaFetch};
pub(in crate::transfer) use fault::DeltaFault;
pub(in crate::transfer) use rebuild::{Rebuild, RewrittenNar};

/// A store path that this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The path.
    pub path: StorePath,
    /// Where its files are.
    pub files: PathBuf,
    /// What the store here knows of it, where it knows anything.
    pub info: Option<PathInfo>,
}

impl Base {
    /// The hash of its NAR, where it is known.
    #[must_use]
    pub fn nar_hash(&self) -> Option<NarHash> {
        self.info.as_ref()?.nar_hash
    }
}

/// Which other versions of paths this machine has.
pub trait BaseLookup: Send + Sync {
    /// For each of these paths the other versions that are here, the most similar first, at most
    /// [`BASES_MAX`](super::BASES_MAX) of each. Blocks.
    fn find(&self, wanted: &[StorePath]) -> Vec<Vec<Base>>;

    /// Whether another version of this path may be here, as far as is known without waiting.
    fn may_find(&self, _wanted: &StorePath) -> bool {
        true
    }

    /// Whether questions, and reading the files of what is found, may take long, and are asked where that is allowed.
    fn may_block(&self) -> bool {
        true
    }

    /// Opens the NAR of one of them. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    fn open_nar(&self, base: &Base) -> io::Result<Box<dyn BaseNar>>;
}

/// The NAR of a version that is here.
pub trait BaseNar: Send {
    /// Replaces what is in `buf` by the next bytes; `false` when there are no more. Blocks.
    ///
    /// # Errors
    /// When files cannot be read, or are not what they were.
    fn next_chunk(&mut self, buf: &mut Vec<u8>) -> io::Result<bool>;
}

/// How many versions of a path are considered.
pub const BASES_MAX: usize = 4;
