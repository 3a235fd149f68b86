//! A NAR on its way to a thread that may block.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use super::error::GetError;
use crate::model::StorePath;
use crate::transfer::{NarSink, Piece};

/// How many pieces (of at most 512 KiB, mostly 64) may wait for a thread.
const AHEAD: usize = 8;

/// Pieces go in, what the thread made of them comes out. When this is dropped, the thread comes to its end and what it
/// gave is dropped too.
pub(super) struct Feed<T> {
    path: StorePath,
    pieces: Sender<Bytes>,
    thread: JoinHandle<Result<T, GetError>>,
}

impl<T: Send + 'static> Feed<T> {
    /// Runs `work` in a thread with the pieces of the NAR of `path`.
    pub(super) fn new(
        path: &StorePath,
        work: impl FnOnce(Receiver<Bytes>) -> Result<T, GetError> + Send + 'static,
    ) -> Self {
        let (pieces, ready) = mpsc::channel(AHEAD);
        Self {
            path: path.clone(),
            pieces,
            thread: tokio::task::spawn_blocking(move || work(ready)),
        }
    }

    /// What the thread has made of all pieces.
    pub(super) async fn end(self) -> Result<T, GetError> {
        drop(self.pieces);
        let ended = self.thread.await;
        ended.map_err(|source| GetError::Thread(format!("{}: {source}", self.path)))?
    }
}

#[async_trait]
impl<T: Send + 'static> NarSink for Feed<T> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        // Its own trouble tells more: it comes out at the end.
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.pieces.send(piece.bytes).await.map_err(closed)
    }
}

/// Runs what may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GetError> + Send + 'static,
) -> Result<T, GetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(source) => Err(GetError::Thread(source.to_string())),
    }
}
