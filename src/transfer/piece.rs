//! Pieces of a NAR on their way to whoever wants it.

use bytes::Bytes;

pub use crate::wire::nar::Mark;

/// Some bytes of a NAR, behind those of the pieces before.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The bytes; never empty, at most 512 KiB where they carry a mark.
    pub bytes: Bytes,
    /// How far the NAR has come with this piece. `None` where the whole NAR has been verified, so
    /// that this and all pieces that follow are right.
    pub mark: Option<Mark>,
}

impl Piece {
    /// A piece of a NAR that has been verified whole.
    #[must_use]
    pub fn verified(bytes: Bytes) -> Self {
        Self { bytes, mark: None }
    }
}

/// Where a NAR broke off that somebody else had begun to pass on.
#[derive(Debug, Clone)]
pub struct Resume {
    /// How many bytes have been passed on.
    pub at: u64,
    /// The mark of the last piece of them.
    pub mark: Mark,
}
