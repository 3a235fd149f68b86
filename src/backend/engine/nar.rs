//! One NAR, received from the engine.

use std::io;

use super::super::{DeliveryError, Undelivered};
use super::refusing_hosts::RefusingHosts;
use super::replies::{handle_side_frame, send};
use crate::ipc::{Client, IpcError};
use crate::model::StorePath;
use crate::transfer::progress::TransferProgress;
use crate::transfer::{Checkpoint, NarSink, Piece, ResumePoint};
use crate::wire::WireError;
use crate::wire::serve::Request;
use crate::wire::serve::engine::Frame;

/// How many bytes of a verified NAR may come before its end.
const MAX_HELD: usize = 16 << 20;

/// Why a NAR did not come from the engine.
pub(super) enum NarFault {
    /// The engine failed.
    Engine(IpcError),
    /// The sink failed.
    Sink(io::Error),
    /// No host can deliver it.
    Undelivered(Undelivered),
}

impl From<IpcError> for NarFault {
    fn from(error: IpcError) -> Self {
        Self::Engine(error)
    }
}

/// One NAR on its way from the engine to a sink.
pub(super) struct NarFromEngine<'a> {
    client: &'a mut Client,
    sink: &'a mut dyn NarSink,
    progress: &'a dyn TransferProgress,
    refusing_hosts: &'a RefusingHosts,
    /// Verified pieces, passed on once all of the NAR is here.
    held: Vec<Piece>,
}

impl<'a> NarFromEngine<'a> {
    pub(super) fn new(
        client: &'a mut Client,
        sink: &'a mut dyn NarSink,
        progress: &'a dyn TransferProgress,
        refusing_hosts: &'a RefusingHosts,
    ) -> Self {
        Self {
            client,
            sink,
            progress,
            refusing_hosts,
            held: Vec::new(),
        }
    }

    /// Receives the NAR of `path`. `resume` is always how far it has been passed on.
    pub(super) async fn receive(
        mut self,
        path: &StorePath,
        resume: &mut Option<ResumePoint>,
    ) -> Result<(), NarFault> {
        let path = path.clone();
        send(self.client, &Request::DumpStorePath { path }).await?;
        loop {
            match self.client.frame().await? {
                Frame::Inline(bytes, Some(checkpoint)) => {
                    let len = bytes.len();
                    self.write(Piece::verified(bytes)).await?;
                    self.advance(len, checkpoint, resume);
                }
                Frame::Inline(bytes, None) => {
                    self.progress.advance(bytes.len() as u64);
                    self.held.push(Piece::verified(bytes));
                    let held = self.held.iter().map(|piece| piece.bytes.len());
                    if held.sum::<usize>() > MAX_HELD {
                        let error = WireError::new("verified NAR", "its end", "more of it");
                        return Err(NarFault::Engine(error.into()));
                    }
                }
                Frame::Piped(len, checkpoint) => {
                    self.write_piped(len).await?;
                    self.advance(len, checkpoint, resume);
                }
                Frame::Last(len) => {
                    self.write_held().await?;
                    self.progress.advance(len as u64);
                    return self.write_piped(len).await;
                }
                Frame::Done => return self.write_held().await,
                Frame::Broken(reason, completion) => {
                    let error = DeliveryError::Engine(reason);
                    return Err(NarFault::Undelivered(Undelivered { error, completion }));
                }
                Frame::Source(host) => self.progress.set_host(&host),
                frame => handle_side_frame(frame, self.refusing_hosts)?,
            }
        }
    }

    async fn write(&mut self, piece: Piece) -> Result<(), NarFault> {
        self.sink.write(piece).await.map_err(NarFault::Sink)
    }

    async fn write_piped(&mut self, len: usize) -> Result<(), NarFault> {
        let pipe = self.client.pipe()?;
        let written = self.sink.write_from_pipe(pipe, len).await;
        written.map_err(NarFault::Sink)
    }

    async fn write_held(&mut self) -> Result<(), NarFault> {
        for piece in std::mem::take(&mut self.held) {
            self.write(piece).await?;
        }
        Ok(())
    }

    /// Notes that `len` more bytes have been passed on.
    fn advance(&self, len: usize, checkpoint: Checkpoint, resume: &mut Option<ResumePoint>) {
        self.progress.advance(len as u64);
        let at = resume.as_ref().map_or(0, |resume| resume.at) + len as u64;
        *resume = Some(ResumePoint { at, checkpoint });
    }
}
