//! Takes a NAR to a thread that may block.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use crate::commands::get::error::GetError;
use crate::model::StorePath;
use crate::transfer::{NarSink, Piece};

/// How many pieces (of at most 512 KiB, mostly 64) may wait for the thread.
const QUEUED_PIECES: usize = 8;

/// Sends the pieces of a NAR to a thread, and returns what the thread made of them. Dropped early, it ends the thread and
/// drops its result.
pub(super) struct BlockingSink<T> {
    path: StorePath,
    pieces: Sender<Bytes>,
    thread: JoinHandle<Result<T, GetError>>,
}

impl<T: Send + 'static> BlockingSink<T> {
    /// Runs `work` in a thread, with the pieces of the NAR of `path`.
    pub(super) fn new(
        path: &StorePath,
        work: impl FnOnce(Receiver<Bytes>) -> Result<T, GetError> + Send + 'static,
    ) -> Self {
        let (pieces, ready) = mpsc::channel(QUEUED_PIECES);
        Self {
            path: path.clone(),
            pieces,
            thread: tokio::task::spawn_blocking(move || work(ready)),
        }
    }

    /// The result of the thread, after the last piece.
    pub(super) async fn finish(self) -> Result<T, GetError> {
        drop(self.pieces);
        let ended = self.thread.await;
        ended.map_err(|source| GetError::Thread(format!("{}: {source}", self.path)))?
    }
}

#[async_trait]
impl<T: Send + 'static> NarSink for BlockingSink<T> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        // The thread's own error says more: `finish` returns it.
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.pieces.send(piece.bytes).await.map_err(closed)
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GetError> + Send + 'static,
) -> Result<T, GetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(source) => Err(GetError::Thread(source.to_string())),
    }
}
