//! What is to be fetched, and where its bytes go.

use std::io;

use async_trait::async_trait;

use super::caller::Caller;
use super::progress::Progress;
use super::verify::{Piece, ResumePoint};
use crate::model::PathInfo;
use crate::pool::HostId;

/// What is to be fetched, and for whom.
pub struct FetchRequest<'a> {
    /// The path, and the NAR that was promised.
    pub info: &'a PathInfo,
    /// Who is known to have it, the best host first.
    pub holders: &'a [HostId],
    /// For whom.
    pub caller: &'a Caller,
    /// Where another transfer of the same NAR broke off: only what follows is passed on.
    pub resume: Option<ResumePoint>,
    /// Shows it.
    pub progress: &'a dyn Progress,
}

/// Takes a NAR, piece by piece.
#[async_trait]
pub trait NarSink: Send {
    /// Takes the next piece. Returns when there is room for more.
    ///
    /// # Errors
    /// When nothing more can be taken; the transfer then ends.
    async fn write(&mut self, piece: Piece) -> io::Result<()>;
}
