//! Pieces of a NAR on their way to whoever wants it.

use bytes::Bytes;

pub use crate::wire::nar::Checkpoint;

/// Some bytes of a NAR, behind those of the pieces before.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The bytes; never empty, at most 512 KiB where they carry a checkpoint.
    pub bytes: Bytes,
    /// How far the NAR has come with this piece. `None` where the whole NAR has been verified, so
    /// that this and all pieces that follow are right.
    pub checkpoint: Option<Checkpoint>,
}

impl Piece {
    /// A piece of a NAR that has been verified whole.
    #[must_use]
    pub fn verified(bytes: Bytes) -> Self {
        Self {
            bytes,
            checkpoint: None,
        }
    }
}

/// Where a NAR broke off that somebody else had begun to pass on.
#[derive(Debug, Clone)]
pub struct ResumePoint {
    /// How many bytes have been passed on.
    pub at: u64,
    /// The checkpoint of the last piece of them.
    pub checkpoint: Checkpoint,
}
