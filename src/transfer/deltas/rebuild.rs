//! Paths that are made from what is here alone: rebuilds that are the same but for hashes of store paths.
//!
//! Whether one is shows only when it is made, since nothing is known of the wanted path but the hash of its NAR. A try costs
//! the host nothing.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use sha2::{Digest, Sha256};

use super::rewrite::HashRewrites;
use super::{Base, BaseLookup, BaseNar};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::verify::HELD_BACK_MAX;

/// How many bytes are made at once.
const PIECE_SIZE: usize = 512 << 10;

/// A version here that may be the wanted path but for hashes.
pub(in crate::transfer) struct Rebuild {
    /// The host that has it, whose bytes are spared.
    pub(in crate::transfer) host: HostId,
    base: Base,
    rewrites: Arc<HashRewrites>,
    lookup: Arc<dyn BaseLookup>,
}

impl Rebuild {
    /// The first of these versions that `info` can be a rebuild of.
    pub(super) fn find(
        host: HostId,
        info: &PathInfo,
        bases: Vec<Base>,
        lookup: &Arc<dyn BaseLookup>,
    ) -> Option<Self> {
        bases.into_iter().find_map(|base| {
            let rewrites = HashRewrites::between(base.info.as_ref()?, info)?;
            Some(Self {
                host,
                base,
                rewrites: Arc::new(rewrites),
                lookup: lookup.clone(),
            })
        })
    }

    /// Whether this has to be done where it may take long.
    pub(in crate::transfer) fn may_block(&self) -> bool {
        self.lookup.may_block()
    }

    /// Opens the version here. Of a NAR that cannot be held back until it is verified, it is found out first whether it
    /// becomes the right one. Blocks.
    ///
    /// # Errors
    /// When files cannot be read, or it does not.
    pub(in crate::transfer) fn open(&self, info: &PathInfo) -> io::Result<RewrittenNar> {
        let open = || {
            let nar = self.lookup.open_nar(&self.base)?;
            Ok::<_, io::Error>(RewrittenNar::new(nar, self.rewrites.clone()))
        };
        if info.nar_size > HELD_BACK_MAX {
            let (mut nar, mut hasher) = (open()?, Sha256::new());
            while let Some(bytes) = nar.next()? {
                hasher.update(&bytes);
            }
            let hash: [u8; 32] = hasher.finalize().into();
            if info
                .nar_hash
                .is_none_or(|wanted| *wanted.as_bytes() != hash)
            {
                return Err(io::Error::other(format!(
                    "{} with other hashes is another NAR",
                    self.base.path
                )));
            }
        }
        open()
    }
}

/// A NAR with other hashes of store paths in it.
pub(in crate::transfer) struct RewrittenNar {
    nar: Box<dyn BaseNar>,
    rewrites: Arc<HashRewrites>,
    /// What may be the beginning of a hash.
    rest: BytesMut,
    chunk: Vec<u8>,
    has_ended: bool,
}

impl RewrittenNar {
    fn new(nar: Box<dyn BaseNar>, rewrites: Arc<HashRewrites>) -> Self {
        Self {
            nar,
            rewrites,
            rest: BytesMut::new(),
            chunk: Vec::new(),
            has_ended: false,
        }
    }

    /// The next bytes; `None` when there are no more. Blocks.
    ///
    /// # Errors
    /// When files cannot be read, or changed.
    pub(in crate::transfer) fn next(&mut self) -> io::Result<Option<BytesMut>> {
        let mut bytes = BytesMut::with_capacity(PIECE_SIZE + (128 << 10));
        bytes.extend_from_slice(&self.rest);
        while bytes.len() < PIECE_SIZE && !self.has_ended {
            match self.nar.next_chunk(&mut self.chunk)? {
                true => bytes.extend_from_slice(&self.chunk),
                false => self.has_ended = true,
            }
        }
        let mut done = self.rewrites.apply(&mut bytes);
        if self.has_ended {
            done = bytes.len();
        }
        self.rest = bytes.split_off(done);
        Ok((done > 0).then_some(bytes))
    }
}
