//! Verifies a NAR as it comes: how far it is, and what may be passed on.
//!
//! Two positions are kept: the one up to which bytes were passed on, and the one up to which bytes were received. When a
//! source fails, the second falls back to the first.
//!
//! ```text
//!   0 ────────────────── passed ─────────────── received ─────────────── end
//!      counts, whatever       held_back back: dropped          size, hash and content
//!      happens next           when the source fails       address are checked
//! ```

use bytes::{Buf, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::checkpoint::{Checkpoint, Piece, ResumePoint};
use super::content_check::ContentCheck;
use crate::model::{NarHash, PathInfo};
use crate::transfer::error::PathFault;
use crate::wire::nar::{Completion, Decoder, Event, NarError};

/// NARs up to this size, in bytes, are verified whole before their first byte is passed on, so that a host which sends
/// wrong bytes can be replaced unnoticed. Larger ones may come in chunks, which are compared with what other hosts have.
pub(in crate::transfer) const HELD_BACK_MAX: u64 = (8 << 20) - 1;

/// The size of the largest piece, in bytes. An engine's client that goes away has to get again what it has not got whole.
const PIECE_MAX: usize = 512 << 10;

#[derive(Clone)]
struct Position {
    decoder: Decoder,
    hasher: Sha256,
}

impl Position {
    /// Decodes and hashes what is whole in the first `most` bytes of `buf`, and takes it off.
    fn take(
        &mut self,
        buf: &mut BytesMut,
        most: usize,
        content: &mut Option<ContentCheck>,
    ) -> Result<Bytes, NarError> {
        let most = most.min(buf.len());
        let mut len = 0;
        let result = loop {
            match self.decoder.step(&buf[len..most]) {
                Ok((read, Some(event))) => {
                    len += read;
                    if let Some(content) = content {
                        content.event(&event);
                    }
                    if event == Event::End {
                        break Ok(());
                    }
                }
                Ok((read, None)) => {
                    len += read;
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        let bytes = buf.split_to(len).freeze();
        self.hasher.update(&bytes);
        if let Some(content) = content {
            content.bytes(&bytes);
        }
        result.map(|()| bytes)
    }

    fn hash(&self) -> NarHash {
        NarHash::new(self.hasher.clone().finalize().into())
    }
}

/// What [`Verifier::take`] gives.
pub(in crate::transfer) enum Taken {
    /// NeedMore that may be passed on yet.
    NeedMore,
    /// This may be passed on, and counts as passed on. There may be more in the buffer.
    Piece(Piece),
    /// The archive is complete; [`Verifier::verify`] gives the rest.
    Complete,
}

#[derive(Clone)]
pub(in crate::transfer) struct Verifier {
    hash: Option<NarHash>,
    /// 0 when unknown.
    size: u64,
    passed: Position,
    received: Position,
    /// What is between the two states.
    held_back: Vec<Bytes>,
    /// Keeps the same two states.
    content: Option<ContentCheck>,
    /// What was passed on before this began, until it has come again and proved to be the same.
    before: Option<ResumePoint>,
}

impl Verifier {
    pub(in crate::transfer) fn new(info: &PathInfo) -> Self {
        let limit = match info.nar_size {
            0 => u64::MAX,
            size => size,
        };
        let start = Position {
            decoder: Decoder::new(limit),
            hasher: Sha256::new(),
        };
        Self {
            hash: info.nar_hash,
            size: info.nar_size,
            passed: start.clone(),
            received: start,
            held_back: Vec::new(),
            content: ContentCheck::new(info),
            before: None,
        }
    }

    /// The rest of a NAR whose beginning has been passed on by somebody else. It comes from its first
    /// byte on all the same, since nothing is known of what was passed on but its hash.
    pub(in crate::transfer) fn resumed(info: &PathInfo, before: ResumePoint) -> Self {
        Self {
            before: Some(before).filter(|before| before.at > 0),
            ..Self::new(info)
        }
    }

    /// How many bytes of the NAR have been taken: where the next ones begin.
    pub(in crate::transfer) fn offset(&self) -> u64 {
        self.received.decoder.bytes_read()
    }

    /// Takes what is whole off the buffer, or a piece of it: to be called again until it gives
    /// [`Taken::NeedMore`] or [`Taken::Complete`].
    pub(in crate::transfer) fn take(&mut self, buf: &mut BytesMut) -> Result<Taken, PathFault> {
        if let Some(before) = &self.before {
            let missing = before.at - self.offset();
            let most = usize::try_from(missing).unwrap_or(usize::MAX);
            let all_there = buf.len() >= most;
            self.received.take(buf, most, &mut self.content)?;
            if self.offset() < before.at {
                // Tokens end where pieces do: one that does not was another one there.
                return match all_there || self.received.decoder.is_complete() {
                    true => Err(PathFault::Differs),
                    false => Ok(Taken::NeedMore),
                };
            }
            if self.received.hash() != before.checkpoint.hash {
                return Err(PathFault::Differs);
            }
            self.before = None;
            self.pass();
        }
        let whole = (1..=HELD_BACK_MAX).contains(&self.size);
        let most = if whole { usize::MAX } else { PIECE_MAX };
        let bytes = self.received.take(buf, most, &mut self.content)?;
        if self.received.decoder.is_complete() {
            self.held_back.push(bytes);
            return Ok(Taken::Complete);
        }
        if bytes.is_empty() {
            return Ok(Taken::NeedMore);
        }
        if whole {
            self.held_back.push(bytes);
            return Ok(Taken::NeedMore);
        }
        self.pass();
        let checkpoint = Some(Checkpoint {
            hash: self.passed.hash(),
            rest: self.passed.decoder.completion(""),
        });
        Ok(Taken::Piece(Piece { bytes, checkpoint }))
    }

    fn pass(&mut self) {
        self.passed = self.received.clone();
        if let Some(content) = &mut self.content {
            content.pass();
        }
    }

    /// Compares hash and size with the promised ones, and the content with its address where it has one,
    /// once the archive is complete. Gives what was held_back back.
    pub(in crate::transfer) fn verify(&mut self) -> Result<Vec<Piece>, PathFault> {
        let (size, hash) = (self.offset(), self.received.hash());
        let wanted_size = if self.size == 0 { size } else { self.size };
        let wanted_hash = self.hash.unwrap_or(hash);
        if (size, hash) != (wanted_size, wanted_hash) {
            let text = |hash: NarHash, size: u64| format!("{hash} ({size} bytes)");
            let (expected, got) = (text(wanted_hash, wanted_size), text(hash, size));
            return Err(PathFault::Mismatch(expected, got));
        }
        if let Some(content) = &self.content {
            content.verify()?;
        }
        self.pass();
        let held_back = std::mem::take(&mut self.held_back).into_iter();
        Ok(held_back.map(Piece::verified).collect())
    }

    /// The host failed: what was taken from it and not passed on does not count. Gives how many bytes that was.
    pub(in crate::transfer) fn roll_back(&mut self) -> u64 {
        let before = self.offset();
        self.held_back.clear();
        self.received = self.passed.clone();
        if let Some(content) = &mut self.content {
            content.roll_back();
        }
        before - self.offset()
    }

    /// What completes what was passed on.
    pub(in crate::transfer) fn completion(&self, reason: &str) -> Completion {
        match &self.before {
            Some(before) => before.checkpoint.rest.clone(),
            None => self.passed.decoder.completion(reason),
        }
    }

    /// A decoder that has come as far as this.
    pub(in crate::transfer) fn decoder(&self) -> Decoder {
        self.received.decoder.clone()
    }

    /// A reader for what was passed on already.
    pub(in crate::transfer) fn prefix(&self) -> Prefix {
        Prefix {
            left: self.offset(),
            hasher: Sha256::new(),
            hash: self.received.hash(),
        }
    }
}

/// Reads over the part of a NAR that was passed on already.
pub(in crate::transfer) struct Prefix {
    left: u64,
    hasher: Sha256,
    hash: NarHash,
}

impl Prefix {
    pub(in crate::transfer) fn is_missing_some(&self) -> bool {
        self.left > 0
    }

    pub(in crate::transfer) fn read(&mut self, buf: &mut BytesMut) {
        let len = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        self.hasher.update(&buf[..len]);
        buf.advance(len);
        self.left -= len as u64;
    }

    pub(in crate::transfer) fn is_same(&self) -> bool {
        self.hasher.clone().finalize()[..] == self.hash.as_bytes()[..]
    }
}
