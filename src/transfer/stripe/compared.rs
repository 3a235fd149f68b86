//! A NAR that comes straight through from one host, and is held back until another one has confirmed it.

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::wire::nar::{Decoder, Event, NarError};

use super::parts::Channel;
use super::{InParts, LOOK};
use crate::pool::HostId;

/// What comes in between: whole parts go in, and come out again once they may be passed on.
pub(in crate::transfer) struct Compared {
    parts: InParts,
    /// Stands for the connection that the bytes come on.
    sender: Channel,
    /// The part that is being gathered: its number and length.
    next: Option<(u64, u64)>,
    gathered: BytesMut,
    /// Reads along, so that what is no NAR is noticed before a whole part of it has come.
    decoder: Decoder,
    /// How many bytes of what was given last it has read already, and nothing holds yet.
    decoded: usize,
}

impl Compared {
    pub(super) fn new(parts: InParts, host: HostId, decoder: Decoder) -> Self {
        Self {
            parts,
            // No channel of a shell has that number.
            sender: Channel { host, number: 0 },
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
            let nar = &self.parts.nar;
            let Some((part, len)) = self.next.or_else(|| nar.next_supply(self.sender)) else {
                return Ok(());
            };
            self.next = Some((part, len));
            let missing = usize::try_from(len).unwrap_or(usize::MAX) - self.gathered.len();
            let piece = buf.split_to(missing.min(self.decoded));
            self.decoded -= piece.len();
            if self.gathered.is_empty() {
                self.gathered = piece;
            } else {
                self.gathered.extend_from_slice(&piece);
            }
            if self.gathered.len() as u64 == len {
                nar.arrived(part, self.gathered.split().freeze(), self.sender);
                self.next = None;
                self.parts.shared.wake();
            }
        }
        Ok(())
    }

    /// After how many bytes the archive has ended, when that is too early.
    pub(in crate::transfer) fn ended_early(&self) -> Option<u64> {
        let read = self.decoder.bytes_read();
        let early = self.decoder.is_complete() && read < self.parts.nar.info.nar_size;
        early.then_some(read)
    }

    /// Whether more bytes are of no use now: all that can be held is there, or all that there is.
    pub(in crate::transfer) fn is_full(&self) -> bool {
        self.decoded > 0 || self.decoder.is_complete()
    }

    /// What may be passed on next, if it can be said yet.
    pub(in crate::transfer) fn confirmed(&mut self) -> Option<Bytes> {
        let InParts { shared, nar, .. } = &self.parts;
        let (part, _) = nar.take(&shared.at_work(nar.hosts()));
        shared.call_back(nar, false);
        part.map(|(bytes, _)| bytes)
    }

    /// Waits until more may be passed on, or may be soon.
    pub(in crate::transfer) async fn changed(&self) {
        let _ = timeout(LOOK, self.parts.nar.changed()).await;
    }

    /// Whether what comes was found to be wrong.
    pub(in crate::transfer) fn is_wrong(&self) -> bool {
        self.parts.nar.is_unfit(self.sender.host)
    }
}
