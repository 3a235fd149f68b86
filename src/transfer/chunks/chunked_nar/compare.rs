//! Compares what one host sends with what another has, before it is passed on.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{ChunkedNar, FileIndex, NarState};
use crate::model::NarHash;
use crate::pool::HostId;
use crate::transfer::chunks::disputes::Verdict;
use crate::transfer::chunks::window::ChannelId;
use crate::wire::nar::layout::{Piece, Segment};

/// How long a chunk is held back until another host has confirmed it. After that, the NAR is not compared any more.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for a host that has not even begun to index the files.
const INDEX_TIMEOUT: Duration = Duration::from_secs(4);

impl ChunkedNar {
    /// The next chunk in order and its sender, once it has come and another host has confirmed it, if one of those
    /// `with_channels` can; and whether that was all.
    pub(in crate::transfer::chunks) fn take(
        &self,
        with_channels: &[HostId],
    ) -> (Option<(Bytes, HostId)>, bool) {
        let mut state = self.state.lock();
        // A host without a channel will not answer.
        for host in state.disputes.concerned() {
            if !with_channels.contains(&host) {
                state.disputes.give_up(host);
            }
        }
        state.settle();
        let NarState {
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
            // It may take long to connect to it.
            None => now < self.began + INDEX_TIMEOUT,
        };
        let others: Vec<_> = with_channels
            .iter()
            .filter(|host| can_compare(host))
            .collect();
        let chunk = chunks.take(|sender, came| {
            let waits = others.iter().any(|other| **other != sender);
            slow = waits && now.saturating_duration_since(came) >= CONFIRM_TIMEOUT;
            waits && !slow
        });
        if slow {
            log::debug!("{}: other hosts are slow to confirm it", self.info.path);
            no_comparing.extend(with_channels);
            chunks.stop_comparing();
        }
        (chunk, chunks.is_done())
    }

    /// Whether the next chunk in order has come and only waits to be confirmed.
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
        state.disputes.ask(channel).then_some(all)
    }

    /// Compares a chunk with the digest of what the host of that channel has there; `None` when it cannot tell.
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
            Some(false) => state.disputes.dispute([sender, channel.host]),
            None => {
                state.no_comparing.insert(channel.host);
            }
        }
        state.settle();
        drop(state);
        self.arrived.notify_one();
    }

    /// Records the digest that a host has of the whole NAR; `None` when it cannot tell. Gives the hash, if it is wrong.
    pub(in crate::transfer::chunks) fn set_whole_digest(
        &self,
        host: HostId,
        digest: Option<[u8; 32]>,
    ) -> Option<NarHash> {
        let expected = self.info.nar_hash?;
        let got = digest.map(NarHash::new);
        let mut state = self.state.lock();
        state.disputes.set_digest(host, got, expected);
        state.settle();
        drop(state);
        self.arrived.notify_one();
        got.filter(|got| *got != expected)
    }
}

impl NarState {
    /// Ends a dispute whose result is known.
    fn settle(&mut self) {
        match self.disputes.verdict() {
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

/// The SHA-256 of the file contents in `bytes`, if the framing between them is that of `segment`.
pub(in crate::transfer) fn contents_digest(
    segment: &Segment,
    mut bytes: &[u8],
) -> Option<[u8; 32]> {
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
