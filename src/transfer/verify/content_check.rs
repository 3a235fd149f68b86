//! Checks that a NAR has the content that the name of its path follows from. An info without a trusted signature counts
//! only because of its content address; its NAR hash is then no more than the host's claim.

use std::mem;

use sha2::{Digest, Sha256};

use crate::model::{Content, NarHash, PathInfo};
use crate::transfer::error::PathFault;
use crate::wire::nar::Event;

/// Length of the hash part of a store path, in bytes.
const HASH_PART: usize = 32;

/// How often a path may refer to itself. Each reference costs eight bytes of memory until the end; a NAR that holds
/// nothing else would cost a quarter of its size.
const MOST_SELVES: usize = 1 << 20;

/// Follows a NAR and knows at its end whether the content is right.
///
/// Like [`Verifier`](super::Verifier) it keeps two positions: of what was passed on, and of what was received.
#[derive(Clone)]
pub(in crate::transfer) struct ContentCheck {
    expected: Content,
    passed: HashPosition,
    received: HashPosition,
    /// Where the path's own hash part stood, in bytes from the beginning of the NAR.
    selves: Vec<u64>,
    /// The path's own hash part.
    own: [u8; HASH_PART],
    /// By how far the window may move on when this byte is its last.
    skips: Box<[usize; 256]>,
}

#[derive(Clone)]
struct HashPosition {
    hasher: Sha256,
    /// What was found instead of one file.
    unfit: Option<&'static str>,
    /// Bytes that may be the beginning of the path's own hash part.
    tail: Vec<u8>,
    /// Bytes before the tail.
    read: u64,
    /// How many of `selves` count.
    selves: usize,
}

impl ContentCheck {
    /// `None` when the NAR hash in the info says it all, or the path is not content-addressed.
    pub(in crate::transfer) fn new(info: &PathInfo) -> Option<Self> {
        let expected = info
            .content()
            .ok()
            .filter(|content| *content != Content::Nar)?;
        let own: [u8; HASH_PART] = info.path.hash_part().as_bytes().try_into().ok()?;
        let mut skips = Box::new([HASH_PART; 256]);
        for (place, byte) in own[..HASH_PART - 1].iter().enumerate() {
            skips[usize::from(*byte)] = HASH_PART - 1 - place;
        }
        let start = HashPosition {
            hasher: Sha256::new(),
            unfit: None,
            tail: Vec::new(),
            read: 0,
            selves: 0,
        };
        Some(Self {
            expected,
            passed: start.clone(),
            received: start,
            selves: Vec::new(),
            own,
            skips,
        })
    }

    /// The next event of the NAR.
    pub(in crate::transfer) fn event(&mut self, event: &Event<'_>) {
        let Content::File { executable, .. } = self.expected else {
            return;
        };
        match event {
            Event::Contents(bytes) => self.received.hasher.update(bytes),
            Event::Directory => self.received.unfit = Some("a directory"),
            Event::Symlink(_) => self.received.unfit = Some("a symlink"),
            Event::File { executable: is, .. } if *is && !executable => {
                self.received.unfit = Some("an executable file");
            }
            _ => {}
        }
    }

    /// The next bytes of the NAR, which the events before were about.
    pub(in crate::transfer) fn bytes(&mut self, bytes: &[u8]) {
        if let Content::NarWithoutSelf(_) = self.expected {
            self.leave_out(bytes);
        }
    }

    /// Hashes as Nix does (`HashModuloSink`): the path's own hash part is replaced by as many zero bytes
    /// wherever it stands.
    fn leave_out(&mut self, bytes: &[u8]) {
        let mut all = mem::take(&mut self.received.tail);
        all.extend_from_slice(bytes);
        let mut at = 0;
        while at + HASH_PART <= all.len() {
            let window = &mut all[at..at + HASH_PART];
            if *window == self.own {
                window.fill(0);
                self.found(at);
                at += HASH_PART;
            } else {
                at += self.skips[usize::from(window[HASH_PART - 1])];
            }
        }
        let done = all.len().saturating_sub(HASH_PART - 1);
        self.received.hasher.update(&all[..done]);
        self.received.read += done as u64;
        all.drain(..done);
        self.received.tail = all;
    }

    fn found(&mut self, at: usize) {
        if self.selves.len() < MOST_SELVES {
            self.selves.push(self.received.read + at as u64);
            self.received.selves = self.selves.len();
        } else {
            self.received.unfit = Some("more than a million references to itself");
        }
    }

    /// What has been taken has been passed on.
    pub(in crate::transfer) fn pass(&mut self) {
        self.passed = self.received.clone();
    }

    /// What has not been passed on does not count.
    pub(in crate::transfer) fn roll_back(&mut self) {
        self.received = self.passed.clone();
        self.selves.truncate(self.received.selves);
    }

    /// Once the archive is complete: whether the content is right.
    ///
    /// Nix 2.17 to 2.34 hash no places behind a NAR that refers to itself. Such an address is no proof: NARs
    /// in which some of these references were zeros already have the same.
    pub(in crate::transfer) fn verify(&self) -> Result<(), PathFault> {
        let mut hasher = self.received.hasher.clone();
        hasher.update(&self.received.tail);
        let without_places: [u8; 32] = hasher.clone().finalize().into();
        for place in &self.selves {
            // So that a path in which some were left out already has another hash.
            hasher.update(format!("|{place}"));
        }
        let hash: [u8; 32] = hasher.finalize().into();
        let (expected, what) = match self.expected {
            // There is no such check.
            Content::Nar => return Ok(()),
            Content::NarWithoutSelf(expected) => {
                (expected, "a NAR whose hash without its own hash part is")
            }
            Content::File { hash, .. } => (hash, "a file whose contents have the hash"),
        };
        if self.received.unfit.is_none() && hash == expected {
            return Ok(());
        }
        if matches!(self.expected, Content::NarWithoutSelf(_)) && without_places == expected {
            return Err(PathFault::Unproven);
        }
        let got = match self.received.unfit {
            Some(unfit) => unfit.to_owned(),
            None => NarHash::new(hash).to_string(),
        };
        let expected = NarHash::new(expected);
        let expected = format!("{what} {expected}, from which its name follows");
        Err(PathFault::Mismatch(expected, got))
    }
}

#[cfg(test)]
mod tests;
