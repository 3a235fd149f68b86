//! A NAR on its way: how far it is, and what may be passed on.
//!
//! Two states are kept: of what has been passed on, and of what has been taken from the host that
//! sends now. When that host fails, the second falls back to the first.

use bytes::{Buf, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::content::ContentCheck;
use crate::model::{NarHash, PathInfo};
use crate::wire::nar::{Completion, Decoder, Event, NarError};

/// NARs up to this size, in bytes, are verified whole before their first byte is passed on, so
/// that a host which sends wrong bytes can be replaced unnoticed.
const WHOLE: u64 = 4 << 20;

#[derive(Clone)]
struct State {
    decoder: Decoder,
    hasher: Sha256,
}

impl State {
    /// Steps over what is whole in `buf` and removes it from there.
    fn take(
        &mut self,
        buf: &mut BytesMut,
        content: &mut Option<ContentCheck>,
    ) -> Result<Bytes, NarError> {
        let mut len = 0;
        let result = loop {
            match self.decoder.step(&buf[len..]) {
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

/// What [`Stream::take`] gives.
pub(super) enum Taken {
    /// Nothing that may be passed on yet.
    Nothing,
    /// These bytes may be passed on; they count as passed on.
    Pass(Bytes),
    /// The archive is complete; [`Stream::verify`] gives the rest.
    Complete,
}

pub(super) struct Stream {
    hash: Option<NarHash>,
    /// 0 when unknown.
    size: u64,
    passed: State,
    ahead: State,
    /// What is between the two states.
    held: Vec<Bytes>,
    /// Keeps the same two states.
    content: Option<ContentCheck>,
}

impl Stream {
    pub(super) fn new(info: &PathInfo) -> Self {
        let limit = match info.nar_size {
            0 => u64::MAX,
            size => size,
        };
        let start = State {
            decoder: Decoder::new(limit),
            hasher: Sha256::new(),
        };
        Self {
            hash: info.nar_hash,
            size: info.nar_size,
            passed: start.clone(),
            ahead: start,
            held: Vec::new(),
            content: ContentCheck::new(info),
        }
    }

    /// Bytes taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.ahead.decoder.bytes_read()
    }

    /// Takes what is whole off the buffer.
    pub(super) fn take(&mut self, buf: &mut BytesMut) -> Result<Taken, NarError> {
        let bytes = self.ahead.take(buf, &mut self.content)?;
        if self.ahead.decoder.is_complete() {
            self.held.push(bytes);
            return Ok(Taken::Complete);
        }
        if bytes.is_empty() {
            return Ok(Taken::Nothing);
        }
        if (1..=WHOLE).contains(&self.size) {
            self.held.push(bytes);
            return Ok(Taken::Nothing);
        }
        self.pass();
        Ok(Taken::Pass(bytes))
    }

    fn pass(&mut self) {
        self.passed = self.ahead.clone();
        if let Some(content) = &mut self.content {
            content.pass();
        }
    }

    /// Compares hash and size with the promised ones, and the content with its address where it has one,
    /// once the archive is complete. Gives what was held back, or what was expected and what came.
    pub(super) fn verify(&mut self) -> Result<Vec<Bytes>, (String, String)> {
        let (size, hash) = (self.taken(), self.ahead.hash());
        let wanted_size = if self.size == 0 { size } else { self.size };
        let wanted_hash = self.hash.unwrap_or(hash);
        if (size, hash) != (wanted_size, wanted_hash) {
            let text = |hash: NarHash, size: u64| format!("{hash} ({size} bytes)");
            return Err((text(wanted_hash, wanted_size), text(hash, size)));
        }
        if let Some(content) = &self.content {
            content.verify()?;
        }
        self.pass();
        Ok(std::mem::take(&mut self.held))
    }

    /// The host failed: what was taken from it and not passed on does not count.
    pub(super) fn roll_back(&mut self) {
        self.held.clear();
        self.ahead = self.passed.clone();
        if let Some(content) = &mut self.content {
            content.roll_back();
        }
    }

    /// What completes what was passed on.
    pub(super) fn completion(&self, reason: &str) -> Completion {
        self.passed.decoder.completion(reason)
    }

    /// A reader for what was passed on already.
    pub(super) fn prefix(&self) -> Prefix {
        Prefix {
            left: self.taken(),
            hasher: Sha256::new(),
            hash: self.ahead.hash(),
        }
    }
}

/// Reads over the part of a NAR that was passed on already.
pub(super) struct Prefix {
    left: u64,
    hasher: Sha256,
    hash: NarHash,
}

impl Prefix {
    pub(super) fn is_missing_some(&self) -> bool {
        self.left > 0
    }

    pub(super) fn read(&mut self, buf: &mut BytesMut) {
        let len = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        self.hasher.update(&buf[..len]);
        buf.advance(len);
        self.left -= len as u64;
    }

    pub(super) fn is_same(&self) -> bool {
        self.hasher.clone().finalize()[..] == self.hash.as_bytes()[..]
    }
}
