//! What an earlier command has received of a NAR.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;

use super::{Source, Step, Stop};
use crate::transfer::partial::{OpenPartial, Partials};
use crate::transfer::progress::TransferProgress;
use crate::transfer::verify::{Taken, Verifier};

/// How many bytes are read at once.
const READ_SIZE: u64 = 1 << 20;

/// Brings the first bytes of a NAR, which a host has proven to have too.
pub(in crate::transfer) struct PartialSource<'a> {
    partials: Arc<Partials>,
    file: OpenPartial,
    /// How far it was read.
    at: u64,
    /// So many bytes are proven.
    size: u64,
    buf: BytesMut,
    progress: &'a dyn TransferProgress,
}

impl<'a> PartialSource<'a> {
    pub(in crate::transfer) fn new(
        partials: Arc<Partials>,
        (file, size): (OpenPartial, u64),
        progress: &'a dyn TransferProgress,
    ) -> Self {
        // No host sends it.
        progress.set_host("");
        Self {
            partials,
            file,
            at: 0,
            size,
            buf: BytesMut::new(),
            progress,
        }
    }

    /// Reads on; `false` at the end of what is proven.
    async fn more(&mut self) -> Result<bool, Stop> {
        let len = READ_SIZE.min(self.size - self.at);
        if len == 0 {
            return Ok(false);
        }
        let (file, at) = (self.file.clone(), self.at);
        let read = self.partials.run(move || {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            file.read_at(&mut bytes, at)?;
            Ok(bytes)
        });
        let bytes = read.await.map_err(|error| {
            log::debug!("what was kept cannot be read: {error}");
            Stop::KeptIsWrong
        })?;
        self.buf.extend_from_slice(&bytes);
        self.at += len;
        Ok(true)
    }
}

#[async_trait]
impl Source for PartialSource<'_> {
    async fn next(&mut self, verifier: &mut Verifier) -> Result<Step, Stop> {
        loop {
            let before = verifier.offset();
            let taken = verifier.take(&mut self.buf);
            let bytes = verifier.offset().saturating_sub(before);
            self.progress.advance(bytes);
            match taken {
                Ok(Taken::NeedMore) => {
                    if !self.more().await? {
                        return Err(Stop::KeptHasEnded);
                    }
                }
                Ok(Taken::Piece(piece)) => return Ok(Step::Write(piece)),
                Ok(Taken::Complete) => {
                    let pieces = verifier.verify();
                    return pieces.map(Step::Complete).map_err(|_| Stop::KeptIsWrong);
                }
                Err(_) => return Err(Stop::KeptIsWrong),
            }
        }
    }
}
