//! A large NAR that comes in chunks.

use async_trait::async_trait;

use super::{Source, SourceProgress, Step, Stop};
use crate::pool::{HostId, Pool};
use crate::transfer::chunks::ChunkedDownload;
use crate::transfer::progress::TransferProgress;
use crate::transfer::verify::{Taken, Verifier};

/// Brings what a [`ChunkedDownload`] puts together.
pub(in crate::transfer) struct ChunkSource<'a> {
    download: ChunkedDownload,
    /// Who sent the chunk that came last.
    sender: Option<HostId>,
    progress: SourceProgress<'a>,
}

impl<'a> ChunkSource<'a> {
    pub(in crate::transfer) fn new(
        download: ChunkedDownload,
        pool: &'a Pool,
        progress: &'a dyn TransferProgress,
    ) -> Self {
        Self {
            download,
            sender: None,
            progress: SourceProgress::new(progress, pool),
        }
    }

    /// Verifies what is left of the chunk that came last; `None` when more is needed.
    fn verify(&mut self, verifier: &mut Verifier) -> Result<Option<Step>, Stop> {
        let Some(sender) = self.sender else {
            return Ok(None);
        };
        let before = verifier.offset();
        let taken = verifier.take(self.download.buffer());
        self.progress.set_host(sender);
        self.progress
            .advance(verifier.offset().saturating_sub(before));
        let step = match taken {
            Ok(Taken::NeedMore) => return Ok(None),
            Ok(Taken::Piece(piece)) => Some(Step::Write(piece)),
            Ok(Taken::Complete) => verifier.verify().ok().map(Step::Complete),
            Err(_) => None,
        };
        if step.is_none() {
            self.download.report_wrong_content();
        }
        step.map(Some).ok_or(Stop::Exhausted)
    }
}

#[async_trait]
impl Source for ChunkSource<'_> {
    async fn next(&mut self, verifier: &mut Verifier) -> Result<Step, Stop> {
        loop {
            if let Some(step) = self.verify(verifier)? {
                return Ok(step);
            }
            let sender = self.download.more().await;
            self.sender = Some(sender.ok_or(Stop::Exhausted)?);
        }
    }
}
