//! Parts of NARs, for callers that speak the extension of the serve protocol.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::wire::serve::extension::{Request, Status};

/// Answers requests of the extension (`wire::serve::extension`).
pub trait NarSegments: Send + Sync {
    /// Begins to answer a request. The work goes on no further than a few pieces ahead of what is taken, and ends early when
    /// the reply is dropped.
    fn answer(&self, request: Request) -> SegmentReply;
}

/// A reply that is being made.
pub struct SegmentReply {
    pieces: mpsc::Receiver<Vec<u8>>,
    end: JoinHandle<(Status, String)>,
}

impl SegmentReply {
    /// The body comes through `pieces`, each framed for the wire; `end` says how it ended.
    #[must_use]
    pub fn new(pieces: mpsc::Receiver<Vec<u8>>, end: JoinHandle<(Status, String)>) -> Self {
        Self { pieces, end }
    }

    /// The next pieces of the body as they go over the wire; `None` after the last one. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.pieces.recv().await
    }

    /// How it ended, and what went wrong. To be called after the last piece.
    pub async fn end(self) -> (Status, String) {
        self.end
            .await
            .unwrap_or_else(|panicked| (Status::Failed, panicked.to_string()))
    }
}
