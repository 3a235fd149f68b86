//! The bytes of a NAR on their way from a backend to the body of a response.
//!
//! A task of its own has the backend deliver, and ends with the response. The last bytes come only once the whole NAR is
//! verified; one that breaks for good ends the connection before them, so that a client never takes it for complete.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::packer::Packer;
use super::status::Counters;
use crate::backend::{Backend, DeliveryError};
use crate::model::StorePath;
use crate::transfer::{NarSink, Piece};

/// How many pieces may wait for the client; one may have 512 KiB.
const PIECES_AHEAD: usize = 1;

/// How long a client may take nothing. Its connection to a host goes to others long before, if they need it.
pub(super) const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which bytes of a NAR are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Offset of the first one.
    pub(super) start: u64,
    /// How many, at least one.
    pub(super) len: u64,
    /// The size of the NAR.
    pub(super) size: u64,
    /// Whether they are sent compressed. Then all of them are wanted.
    pub(super) is_packed: bool,
}

/// Bytes of a body.
#[derive(Debug)]
pub(super) struct Part {
    bytes: Bytes,
    /// How many bytes of the NAR are sent with them; of one that is compressed, all with the end of the frame and none before.
    nar_len: u64,
}

/// The NAR could not be delivered to its end. It has been logged why.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the NAR broke off")]
pub(super) struct BrokeOff;

/// The body of a response: part of a NAR.
pub(super) struct NarBody {
    /// What came first.
    first: Option<Part>,
    pieces: mpsc::Receiver<Result<Part, BrokeOff>>,
    /// How many bytes of the NAR are still wanted.
    left: u64,
    is_packed: bool,
    counters: Arc<Counters>,
}

impl NarBody {
    /// Has `backend` deliver a NAR, and waits until the first wanted bytes have come.
    ///
    /// # Errors
    /// When it ends before that.
    pub(super) async fn start(
        backend: Box<dyn Backend>,
        path: StorePath,
        wanted: Wanted,
        counters: Arc<Counters>,
    ) -> Result<Self, BrokeOff> {
        let (taker, mut pieces) = mpsc::channel(PIECES_AHEAD);
        tokio::spawn(deliver(backend, path, wanted, taker));
        let first = pieces.recv().await.unwrap_or(Err(BrokeOff))?;
        Ok(Self {
            first: Some(first),
            pieces,
            left: wanted.len,
            is_packed: wanted.is_packed,
            counters,
        })
    }
}

impl Body for NarBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let piece = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => std::task::ready!(self.pieces.poll_recv(context)),
        };
        Poll::Ready(match piece {
            Some(Ok(part)) => {
                self.left = self.left.saturating_sub(part.nar_len);
                self.counters.add_bytes(part.bytes.len());
                Some(Ok(Frame::data(part.bytes)))
            }
            Some(Err(broke_off)) => Some(Err(broke_off)),
            None if self.left > 0 => Some(Err(BrokeOff)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        match self.is_packed {
            true => SizeHint::default(),
            false => SizeHint::with_exact(self.left),
        }
    }
}

/// Delivers a NAR until all that is wanted has come, or the response is gone.
async fn deliver(
    backend: Box<dyn Backend>,
    path: StorePath,
    wanted: Wanted,
    taker: mpsc::Sender<Result<Part, BrokeOff>>,
) {
    let packer = wanted.is_packed.then(|| Packer::new(wanted.size));
    let packer = match packer.transpose() {
        Ok(packer) => packer,
        Err(error) => {
            log::error!("{path}: cannot compress it: {error}");
            return;
        }
    };
    let mut sink = PartSink {
        taker: taker.clone(),
        skip: wanted.start,
        left: wanted.len,
        packer,
    };
    // A response that is gone would otherwise be noticed by the next bytes only.
    let delivered = tokio::select! {
        biased;
        delivered = backend.deliver(&path, &mut sink) => delivered,
        () = taker.closed() => {
            log::debug!("{path}: the client is gone");
            return;
        }
    };
    let is_whole = wanted.start + wanted.len == wanted.size;
    match delivered.map_err(|undelivered| undelivered.error) {
        Ok(()) if sink.left == 0 => match sink.finish(wanted.len).await {
            Ok(()) => return,
            Err(error) => log::debug!("{path}: its end could not be sent: {error}"),
        },
        Ok(()) => log::error!("{path}: {} bytes fewer came than were promised", sink.left),
        // The sink takes no more than was asked for.
        Err(DeliveryError::Sink(_)) if sink.left == 0 && !is_whole => return,
        Err(DeliveryError::Sink(error)) => log::debug!("{path}: the client takes no more: {error}"),
        Err(error @ DeliveryError::NotFound(_)) => log::warn!("{error}"),
        Err(error) => log::error!("{error}"),
    }
    let _ = timeout(TAKE_TIMEOUT, taker.send(Err(BrokeOff))).await;
}

/// Passes on what is wanted of a NAR.
struct PartSink {
    taker: mpsc::Sender<Result<Part, BrokeOff>>,
    /// How many bytes come before.
    skip: u64,
    /// How many are still wanted.
    left: u64,
    /// Compresses them.
    packer: Option<Packer>,
}

impl PartSink {
    async fn send(&self, bytes: Bytes, nar_len: u64) -> io::Result<()> {
        let part = Part { bytes, nar_len };
        match timeout(TAKE_TIMEOUT, self.taker.send(Ok(part))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends what is left of a compressed NAR, which has so many bytes and is verified.
    async fn finish(&mut self, nar_len: u64) -> io::Result<()> {
        match self.packer.take() {
            Some(packer) => self.send(packer.finish()?, nar_len).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl NarSink for PartSink {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        let mut bytes = piece.bytes;
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        // No more than its length.
        let _ = bytes.split_to(usize::try_from(skipped).unwrap_or(bytes.len()));
        if bytes.is_empty() {
            return Ok(());
        }
        if self.left == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if bytes.len() as u64 > self.left {
            bytes.truncate(usize::try_from(self.left).unwrap_or(bytes.len()));
        }
        self.left -= bytes.len() as u64;
        let Some(packer) = &mut self.packer else {
            let len = bytes.len() as u64;
            return self.send(bytes, len).await;
        };
        let packed = packer.pack(bytes).await?;
        match packed.is_empty() {
            true => Ok(()),
            false => self.send(packed, 0).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn sink(skip: u64, left: u64) -> (PartSink, mpsc::Receiver<Result<Part, BrokeOff>>) {
        let (taker, pieces) = mpsc::channel(PIECES_AHEAD);
        let sink = PartSink {
            taker,
            skip,
            left,
            packer: None,
        };
        (sink, pieces)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_ends_the_transfer() {
        let (mut sink, _pieces) = sink(0, 100);
        let piece = || Piece::verified(Bytes::from_static(b"0123456789"));
        sink.write(piece()).await.unwrap();
        let begun = Instant::now();
        let error = sink.write(piece()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= TAKE_TIMEOUT);
    }

    #[tokio::test]
    async fn only_what_is_wanted_is_passed_on() {
        for (skip, left, passed) in [(0, 20, 20), (0, 5, 5), (3, 4, 4), (10, 10, 10), (12, 3, 3)] {
            let (mut sink, mut pieces) = sink(skip, left);
            let write = async {
                for piece in [&b"0123456789"[..], b"abcdefghij"] {
                    // It may have had enough.
                    let _ = sink.write(Piece::verified(Bytes::from_static(piece))).await;
                }
                drop(sink);
            };
            let mut came = Vec::new();
            let read = async {
                while let Some(Ok(part)) = pieces.recv().await {
                    came.extend_from_slice(&part.bytes);
                }
            };
            tokio::join!(write, read);
            let start = usize::try_from(skip).unwrap();
            assert_eq!(came, b"0123456789abcdefghij"[start..start + passed]);
        }
    }
}
