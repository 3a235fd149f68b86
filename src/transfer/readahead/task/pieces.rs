//! What has come of a NAR and was not read by all its readers: in memory, or in a file. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::pool::HostId;
use crate::transfer::verify::{Checkpoint, Piece};

/// How many bytes are written to a file at a time, at most.
const MAX_WRITE: u64 = 4 << 20;

/// A piece, with its sender.
#[derive(Clone)]
pub(super) struct StoredPiece {
    pub(super) host: HostId,
    pub(super) content: Content,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Its offset in the NAR, and in the file.
    pub(super) at: u64,
}

#[derive(Clone)]
pub(super) enum Content {
    Memory(Bytes),
    File { len: usize, digest: u64 },
}

/// Pieces to be written to the file.
pub(super) struct Unwritten {
    /// Which piece is the first.
    pub(super) first: usize,
    /// Its offset.
    pub(super) at: u64,
    pub(super) pieces: Vec<Bytes>,
}

/// The pieces of one NAR, numbered from its beginning on.
#[derive(Default)]
pub(super) struct Pieces {
    pieces: VecDeque<StoredPiece>,
    /// How many came before those.
    dropped: usize,
    /// Where the next one begins.
    end: u64,
    /// Which one is written to a file next.
    to_write: usize,
}

impl Pieces {
    pub(super) fn push(&mut self, piece: Piece, host: HostId) {
        let at = self.end;
        self.end += piece.bytes.len() as u64;
        self.pieces.push_back(StoredPiece {
            host,
            content: Content::Memory(piece.bytes),
            checkpoint: piece.checkpoint,
            at,
        });
    }

    pub(super) fn get(&self, number: usize) -> Option<&StoredPiece> {
        self.pieces.get(number.checked_sub(self.dropped)?)
    }

    /// How many have come.
    pub(super) fn count(&self) -> usize {
        self.dropped + self.pieces.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether some were dropped.
    pub(super) fn lacks_some(&self) -> bool {
        self.dropped > 0
    }

    /// Drops those before that one.
    pub(super) fn drop_before(&mut self, number: usize) {
        while self.dropped < number && self.pieces.pop_front().is_some() {
            self.dropped += 1;
        }
    }

    /// Drops all, as if none had come.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many bytes are in memory that are not written to a file.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        let first = self.to_write.max(self.dropped);
        self.get(first).map_or(0, |piece| self.end - piece.at)
    }

    /// What is to be written next.
    pub(super) fn unwritten(&self) -> Option<Unwritten> {
        let first = self.to_write.max(self.dropped);
        let at = self.get(first)?.at;
        let stored = self.pieces.iter().skip(first - self.dropped);
        let mut pieces = Vec::new();
        for piece in stored.take_while(|piece| piece.at - at < MAX_WRITE) {
            if let Content::Memory(bytes) = &piece.content {
                pieces.push(bytes.clone());
            }
        }
        Some(Unwritten { first, at, pieces })
    }

    /// Pieces from that one on were written, with these digests. They are read from the file from now on.
    pub(super) fn set_written(&mut self, first: usize, digests: &[u64]) {
        self.to_write = first + digests.len();
        for (number, digest) in (first..).zip(digests) {
            let stored = number.checked_sub(self.dropped);
            if let Some(piece) = stored.and_then(|number| self.pieces.get_mut(number))
                && let Content::Memory(bytes) = &piece.content
            {
                piece.content = Content::File {
                    len: bytes.len(),
                    digest: *digest,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(len: usize) -> Piece {
        Piece::verified(vec![7; len].into())
    }

    fn in_memory(pieces: &Pieces) -> Vec<bool> {
        let all = pieces.pieces.iter();
        all.map(|piece| matches!(piece.content, Content::Memory(_)))
            .collect()
    }

    #[test]
    fn what_is_written_is_in_memory_no_more() {
        let (mut pieces, host) = (Pieces::default(), HostId::at(0));
        assert!(pieces.unwritten().is_none());
        (1..=4).for_each(|len| pieces.push(piece(len), host));
        // One is read meanwhile.
        let unwritten = pieces.unwritten().unwrap();
        let lens: Vec<_> = unwritten.pieces.iter().map(Bytes::len).collect();
        assert_eq!(
            (unwritten.first, unwritten.at, lens),
            (0, 0, vec![1, 2, 3, 4])
        );
        pieces.drop_before(1);
        pieces.push(piece(5), host);
        assert_eq!(pieces.unwritten_bytes(), 2 + 3 + 4 + 5);
        pieces.set_written(0, &[0; 4]);
        assert_eq!(in_memory(&pieces), [false, false, false, true]);
        assert_eq!(pieces.unwritten_bytes(), 5);
        let unwritten = pieces.unwritten().unwrap();
        assert_eq!(
            (unwritten.first, unwritten.at, unwritten.pieces.len()),
            (4, 10, 1)
        );
        // What was read needs no file.
        pieces.drop_before(5);
        assert!(pieces.is_empty() && pieces.lacks_some());
        assert_eq!((pieces.unwritten_bytes(), pieces.count()), (0, 5));
        pieces.push(piece(6), host);
        assert_eq!(pieces.unwritten().unwrap().at, 15);
        assert_eq!(pieces.get(5).unwrap().at, 15);
        assert!(pieces.get(4).is_none() && pieces.get(6).is_none());
    }

    #[test]
    fn not_all_is_written_at_once() {
        let (mut pieces, host) = (Pieces::default(), HostId::at(0));
        let len = usize::try_from(MAX_WRITE).unwrap() / 2;
        (0..5).for_each(|_| pieces.push(piece(len), host));
        let mut writes = Vec::new();
        while let Some(unwritten) = pieces.unwritten() {
            writes.push(unwritten.pieces.len());
            pieces.set_written(unwritten.first, &vec![0; unwritten.pieces.len()]);
        }
        assert_eq!(writes, [2, 2, 1]);
    }
}
