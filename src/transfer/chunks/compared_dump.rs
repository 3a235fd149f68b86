//! A NAR that comes straight through from one host, and is held back until another one has confirmed it.

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::wire::nar::{Decoder, Event, NarError};

use super::window::ChannelId;
use super::{ChunkedDownload, LOOK};
use crate::pool::HostId;

/// What comes in between: whole chunks go in, and come out again once they may be passed on.
pub(in crate::transfer) struct ComparedDump {
    chunks: ChunkedDownload,
    /// Stands for the connection that the bytes come on.
    sender: ChannelId,
    /// The chunk that is being gathered: its number and length.
    next: Option<(u64, u64)>,
    gathered: BytesMut,
    /// Reads along, so that what is no NAR is noticed before a whole chunk of it has come.
    decoder: Decoder,
    /// How many bytes of what was given last it has read already, and nothing holds yet.
    decoded: usize,
}

impl ComparedDump {
    pub(super) fn new(chunks: ChunkedDownload, host: HostId, decoder: Decoder) -> Self {
        Self {
            chunks,
            // No channel of a shell has that number.
            sender: ChannelId { host, number: 0 },
            next: None,
            gathered: BytesMut::new(),
            decoder,
            decoded: 0,
        }
    }

    /// Takes off the buffer what is whole and can be held. To be called with the same buffer again, with
    /// more behind what was left in it.
    ///
    /// # Errors
    /// When what comes is no acceptable NAR.
    pub(in crate::transfer) fn take(&mut self, buf: &mut BytesMut) -> Result<(), NarError> {
        while !self.decoder.is_complete() {
            let (read, event) = self.decoder.step(&buf[self.decoded..])?;
            self.decoded += read;
            if event.is_none() || event == Some(Event::End) {
                break;
            }
        }
        while self.decoded > 0 {
            let nar = &self.chunks.nar;
            let Some((chunk, len)) = self.next.or_else(|| nar.next_supply(self.sender)) else {
                return Ok(());
            };
            self.next = Some((chunk, len));
            let missing = usize::try_from(len).unwrap_or(usize::MAX) - self.gathered.len();
            let piece = buf.split_to(missing.min(self.decoded));
            self.decoded -= piece.len();
            if self.gathered.is_empty() {
                self.gathered = piece;
            } else {
                self.gathered.extend_from_slice(&piece);
            }
            if self.gathered.len() as u64 == len {
                nar.arrived(chunk, self.gathered.split().freeze(), self.sender);
                self.next = None;
                self.chunks.scheduler.wake();
            }
        }
        Ok(())
    }

    /// After how many bytes the archive has ended, when that is too early.
    pub(in crate::transfer) fn ended_early(&self) -> Option<u64> {
        let read = self.decoder.bytes_read();
        let early = self.decoder.is_complete() && read < self.chunks.nar.info.nar_size;
        early.then_some(read)
    }

    /// Whether more bytes are of no use now: all that can be held is there, or all that there is.
    pub(in crate::transfer) fn is_full(&self) -> bool {
        self.decoded > 0 || self.decoder.is_complete()
    }

    /// What may be passed on next, if it can be said yet.
    pub(in crate::transfer) fn confirmed(&mut self) -> Option<Bytes> {
        let ChunkedDownload { scheduler, nar, .. } = &self.chunks;
        let (chunk, _) = nar.take(&scheduler.at_work(nar.hosts()));
        scheduler.reopen_channels(nar, false);
        chunk.map(|(bytes, _)| bytes)
    }

    /// Waits until more may be passed on, or may be soon.
    pub(in crate::transfer) async fn changed(&self) {
        let _ = timeout(LOOK, self.chunks.nar.changed()).await;
    }

    /// Whether what comes was found to be wrong.
    pub(in crate::transfer) fn is_wrong(&self) -> bool {
        self.chunks.nar.is_excluded(self.sender.host)
    }
}
