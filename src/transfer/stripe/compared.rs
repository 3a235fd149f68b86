//! A NAR that comes straight through from one host, and is held back until another one has confirmed it.

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

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
}

impl Compared {
    pub(super) fn new(parts: InParts, host: HostId) -> Self {
        Self {
            parts,
            // No channel of a shell has that number.
            sender: Channel { host, number: 0 },
            next: None,
            gathered: BytesMut::new(),
        }
    }

    /// Takes off the buffer what can be held.
    pub(in crate::transfer) fn take(&mut self, buf: &mut BytesMut) {
        while !buf.is_empty() {
            let nar = &self.parts.nar;
            let Some((part, len)) = self.next.or_else(|| nar.next_supply(self.sender)) else {
                return;
            };
            self.next = Some((part, len));
            let missing = usize::try_from(len).unwrap_or(usize::MAX) - self.gathered.len();
            let piece = buf.split_to(missing.min(buf.len()));
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
    }

    /// What may be passed on next, if it can be said yet.
    pub(in crate::transfer) fn confirmed(&mut self) -> Option<Bytes> {
        let InParts { shared, nar, .. } = &self.parts;
        let (part, _) = nar.take(&shared.at_work(nar.hosts()));
        shared.call_back(nar, false);
        part
    }

    /// Whether all of the NAR has been taken.
    pub(in crate::transfer) fn is_whole(&self) -> bool {
        self.next.is_none() && !self.parts.nar.lacks_some()
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
