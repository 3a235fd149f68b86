//! A plain dump that is held back until another host has confirmed it.

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::wire::nar::{Decoder, Event, NarError};

use super::channel::reopen_channels;
use super::download::{CONFIRM_CHECK_INTERVAL, ChunkedDownload};
use super::window::ChannelId;
use crate::pool::HostId;

/// Whole chunks go in, and come out again once they may be passed on.
pub(in crate::transfer) struct ComparedDump {
    chunks: ChunkedDownload,
    /// Stands for the connection that the bytes come on.
    sender: ChannelId,
    /// The chunk that is being gathered: its number and length.
    next: Option<(u64, u64)>,
    gathered: BytesMut,
    /// Decodes along, so that malformed bytes are noticed before a whole chunk has come.
    decoder: Decoder,
    /// How many bytes at the front of the buffer are decoded already and not taken off.
    decoded: usize,
}

impl ComparedDump {
    pub(super) fn new(chunks: ChunkedDownload, host: HostId, decoder: Decoder) -> Self {
        Self {
            chunks,
            // Shell channels are numbered from 1.
            sender: ChannelId { host, number: 0 },
            next: None,
            gathered: BytesMut::new(),
            decoder,
            decoded: 0,
        }
    }

    /// Takes whole chunks off the buffer, as long as they can be held. To be called with the same buffer again, with more
    /// bytes behind what was left.
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

    /// The size of the archive, when it has ended too early.
    pub(in crate::transfer) fn ended_early(&self) -> Option<u64> {
        let read = self.decoder.bytes_read();
        let early = self.decoder.is_complete() && read < self.chunks.nar.info.nar_size;
        early.then_some(read)
    }

    /// Whether nothing more can be taken now: all that can be held is there, or the archive is complete.
    pub(in crate::transfer) fn is_full(&self) -> bool {
        self.decoded > 0 || self.decoder.is_complete()
    }

    /// The next bytes that may be passed on, if they are confirmed or cannot be.
    pub(in crate::transfer) fn confirmed(&mut self) -> Option<Bytes> {
        let ChunkedDownload { scheduler, nar, .. } = &self.chunks;
        let (chunk, _) = nar.take(&scheduler.with_channels(nar.hosts()));
        reopen_channels(scheduler, nar, false);
        chunk.map(|(bytes, _)| bytes)
    }

    /// Waits until more may be confirmed.
    pub(in crate::transfer) async fn changed(&self) {
        let _ = timeout(CONFIRM_CHECK_INTERVAL, self.chunks.nar.changed()).await;
    }

    /// Whether the sender was found to be wrong.
    pub(in crate::transfer) fn is_wrong(&self) -> bool {
        self.chunks.nar.is_excluded(self.sender.host)
    }
}
