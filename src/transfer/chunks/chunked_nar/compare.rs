//! What one host sends of a NAR is compared with what another one has, before it is passed on.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{ChunkedNar, FileIndex, State};
use crate::model::NarHash;
use crate::pool::HostId;
use crate::transfer::chunks::disputes::Verdict;
use crate::transfer::chunks::window::ChannelId;
use crate::wire::nar::layout::{Piece, Segment};

/// How long a chunk that has come is held back until another host has confirmed it. After that this is not
/// waited for any more.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// How long after the beginning a host is waited for that does not even list the files yet.
const OPEN_LIMIT: Duration = Duration::from_secs(4);

impl ChunkedNar {
    /// The next chunk in order and its sender, if it has come and, where one of the hosts `at_work` can, another host than
    /// its sender has confirmed it; and whether that was all.
    pub(in crate::transfer::chunks) fn take(
        &self,
        at_work: &[HostId],
    ) -> (Option<(Bytes, HostId)>, bool) {
        let mut state = self.state.lock();
        // Who has no channel any more cannot settle anything.
        for host in state.proofs.concerned() {
            if !at_work.contains(&host) {
                state.proofs.give_up(host);
            }
        }
        state.settle();
        let State {
            chunks,
            file_indexes,
            no_comparing,
            ..
        } = &mut *state;
        let mut slow = false;
        let now = Instant::now();
        let can_compare = |host: &HostId| match file_indexes.get(host) {
            Some(FileIndex::Excluded) => false,
            Some(FileIndex::Asked | FileIndex::Known(_)) => !no_comparing.contains(host),
            // It may be long until it can be connected to.
            None => now < self.began + OPEN_LIMIT,
        };
        let others: Vec<_> = at_work.iter().filter(|host| can_compare(host)).collect();
        let chunk = chunks.take(|sender, came| {
            let waits = others.iter().any(|other| **other != sender);
            slow = waits && now.saturating_duration_since(came) >= CONFIRM_LIMIT;
            waits && !slow
        });
        if slow {
            log::debug!("{}: other hosts are slow to confirm it", self.info.path);
            no_comparing.extend(at_work);
            chunks.stop_comparing();
        }
        (chunk, chunks.is_done())
    }

    /// Whether the next chunk in order has come and only waits for being confirmed.
    pub(in crate::transfer::chunks) fn waits_for_check(&self) -> bool {
        self.state.lock().chunks.is_next_unconfirmed()
    }

    /// The chunk that this channel should compare with what its host has.
    pub(in crate::transfer::chunks) fn next_check(
        &self,
        channel: ChannelId,
    ) -> Option<(u64, Segment)> {
        let mut state = self.state.lock();
        if state.no_comparing.contains(&channel.host) {
            return None;
        }
        let Some(FileIndex::Known(layout)) = state.file_indexes.get(&channel.host) else {
            return None;
        };
        let layout = layout.clone();
        let chunk = state.chunks.next_check(channel)?;
        let (start, len) = state.chunks.range(chunk);
        Some((chunk, layout.segment(start, len)))
    }

    /// Whether this channel should ask for the digest of the whole NAR, to settle a dispute.
    pub(in crate::transfer::chunks) fn next_proof(&self, channel: ChannelId) -> Option<Segment> {
        let mut state = self.state.lock();
        let Some(FileIndex::Known(layout)) = state.file_indexes.get(&channel.host) else {
            return None;
        };
        let all = layout.segment(0, self.info.nar_size);
        state.proofs.ask(channel).then_some(all)
    }

    /// What the files of that channel's host come to in place of a chunk that another one sent; `None` when
    /// it cannot tell.
    pub(in crate::transfer::chunks) fn compared(
        &self,
        chunk: u64,
        channel: ChannelId,
        digest: Option<[u8; 32]>,
    ) {
        let (bytes, sender, segment) = {
            let state = self.state.lock();
            let Some((bytes, sender)) = state.chunks.to_compare(chunk, channel) else {
                return;
            };
            let Some(FileIndex::Known(layout)) = state.file_indexes.get(&channel.host) else {
                return;
            };
            let (start, len) = state.chunks.range(chunk);
            (bytes, sender, layout.segment(start, len))
        };
        // Outside the lock: it takes some milliseconds.
        let agreed = digest.map(|digest| contents_digest(&segment, &bytes) == Some(digest));
        let mut state = self.state.lock();
        state.chunks.compared(chunk, channel, agreed);
        match agreed {
            Some(true) => {}
            Some(false) => state.proofs.dispute([sender, channel.host]),
            None => {
                state.no_comparing.insert(channel.host);
            }
        }
        state.settle();
        drop(state);
        self.arrived.notify_one();
    }

    /// What that host has all in all; `None` when it cannot tell. Gives what it has, if that is wrong.
    pub(in crate::transfer::chunks) fn proved(
        &self,
        host: HostId,
        digest: Option<[u8; 32]>,
    ) -> Option<NarHash> {
        let expected = self.info.nar_hash?;
        let got = digest.map(NarHash::new);
        let mut state = self.state.lock();
        state.proofs.told(host, got, expected);
        state.settle();
        drop(state);
        self.arrived.notify_one();
        got.filter(|got| *got != expected)
    }
}

impl State {
    /// Ends a dispute, if its end is known.
    fn settle(&mut self) {
        match self.proofs.verdict() {
            Some(Verdict::Wrong(hosts)) => {
                self.chunks.settle(&hosts);
                for host in hosts {
                    self.file_indexes.insert(host, FileIndex::Excluded);
                }
            }
            Some(Verdict::Unknown) => {
                self.no_comparing.extend(self.hosts.iter().copied());
                self.chunks.stop_comparing();
            }
            None => {}
        }
    }
}

/// The SHA-256 of what in `bytes` comes from files, if the framing between is that of `segment`.
fn contents_digest(segment: &Segment, mut bytes: &[u8]) -> Option<[u8; 32]> {
    let mut hasher = Sha256::new();
    for piece in segment.pieces() {
        match piece {
            Piece::Framing(framing) => bytes = bytes.strip_prefix(&framing[..])?,
            Piece::Contents(range) => {
                let (contents, rest) = bytes.split_at_checked(usize::try_from(range.len).ok()?)?;
                hasher.update(contents);
                bytes = rest;
            }
        }
    }
    bytes.is_empty().then(|| hasher.finalize().into())
}
