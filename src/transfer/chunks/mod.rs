//! Large NARs over several channels and hosts.
//!
//! ssh moves at most 2 MiB of a channel in a round trip, so on a long link a large NAR is much
//! faster in chunks; and from two hosts it comes twice as fast as from one. ChunkWindow are read through
//! shells, where accounts have them, and put together in order. The channels are scheduler by all NARs:
//! who is waited for comes first, and what it leaves of them goes to those that are read ahead.
//! Whatever goes wrong here ends with the plain transfer, which goes on from the same byte.
//!
//! Nothing of a large NAR can be verified before its end, so what one host sends is compared with what
//! another one has, chunk by chunk, before it is passed on: the other one sends a digest only. Where the two
//! differ, both are asked for the digest of the whole NAR, and what the wrong one has sent is replaced.
//!
//! | module | what it does |
//! | --- | --- |
//! | `chunks` | which chunk is asked of whom; pure |
//! | `proof` | who is right when two hosts disagree; pure |
//! | `nar` | one NAR |
//! | `scheduler` | all NARs, and the channels of each host |
//! | `channel` | one shell on one host |
//! | `compared` | a NAR that comes straight through and is only compared here |

mod channel;
mod chunked_nar;
mod compared_dump;
mod disputes;
mod scheduler;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{sleep_until, timeout};

use super::hosts::HostBookkeeping;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::wire::nar::Decoder;
use chunked_nar::ChunkedNar;
pub(super) use chunked_nar::{Priority, URGENT};
pub(super) use compared_dump::ComparedDump;
use scheduler::Scheduler;

/// A round trip from which on several channels to one host are faster than one: below it, the
/// window of one lets 200 MB/s through.
pub(super) const FAR: Duration = Duration::from_millis(10);

/// What is not worth the round trips that shells cost, in bytes.
pub(super) const LEAST: u64 = 8 << 20;

/// How long the first chunk may take before the NAR is asked for in the plain way.
const START: Duration = Duration::from_secs(4);

/// How often it is looked whether a chunk that has come is still to be held back.
const LOOK: Duration = Duration::from_millis(250);

/// Brings NARs in chunks, with tasks of its own that end when it is dropped.
pub(super) struct ChunkedDownloads(Arc<Scheduler>);

impl Drop for ChunkedDownloads {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl ChunkedDownloads {
    pub(super) fn new(book: Arc<HostBookkeeping>) -> Self {
        Self(Arc::new(Scheduler::new(book)))
    }

    /// Whether a NAR should come in chunks, from its beginning.
    pub(super) fn suits(&self, info: &PathInfo, holders: &[HostId]) -> bool {
        self.is_possible(info) && self.is_faster(info, 0, &self.usable(info, holders))
    }

    fn is_possible(&self, info: &PathInfo) -> bool {
        info.nar_hash.is_some() && !self.0.book.had_wrong_chunks(&info.path)
    }

    /// Whether these hosts start_download what follows the byte `from` faster in chunks.
    fn is_faster(&self, info: &PathInfo, from: u64, hosts: &[HostId]) -> bool {
        // Of a host that was not talked to yet nobody knows how far it is.
        let may_be_far = |host: &HostId| self.0.is_far(*host) != Some(false);
        let large = info.nar_size.saturating_sub(from) >= LEAST;
        large && (hosts.len() > 1 || hosts.iter().any(may_be_far))
    }

    fn usable(&self, info: &PathInfo, holders: &[HostId]) -> Vec<HostId> {
        self.0.usable(&info.path, holders)
    }

    /// Starts to start_download what follows the byte `from` of a NAR, if that is of use: since it comes faster
    /// so, or since only so what there is already need not come again.
    pub(super) fn start(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        from: u64,
        priority: Priority,
    ) -> Option<ChunkedDownload> {
        if !self.is_possible(info) {
            return None;
        }
        let mut hosts = self.usable(info, holders);
        let spares = from >= LEAST && from < info.nar_size;
        if !spares && !self.is_faster(info, from, &hosts) {
            return None;
        }
        // The one that broke off may be all there is.
        let ignore_backoff = hosts.is_empty();
        if ignore_backoff {
            let may = |host: &HostId| self.0.may_bring_chunks(*host, &info.path);
            hosts.extend(holders.iter().copied().filter(may));
        }
        if hosts.is_empty() {
            return None;
        }
        let only_if_far = hosts.len() == 1 && !spares;
        let info = Arc::new(info.clone());
        let mut nar = ChunkedNar::new(info, hosts, from, priority);
        nar.only_if_far = only_if_far;
        nar.ignore_backoff = ignore_backoff;
        Some(self.start_download(nar))
    }

    /// Has what `sender` sends straight through, from where `decoder` has come to, compared with what other hosts have,
    /// if one can do that and the rest is large.
    pub(super) fn compare(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        sender: HostId,
        decoder: Decoder,
    ) -> Option<ComparedDump> {
        let from = decoder.bytes_read();
        if info.nar_hash.is_none() || info.nar_size.saturating_sub(from) < LEAST {
            return None;
        }
        let mut hosts = self.usable(info, holders);
        hosts.retain(|host| *host != sender);
        if hosts.is_empty() {
            return None;
        }
        let nar = ChunkedNar::to_compare(Arc::new(info.clone()), hosts, from);
        Some(ComparedDump::new(self.start_download(nar), sender, decoder))
    }

    fn start_download(&self, nar: ChunkedNar) -> ChunkedDownload {
        let nar = Arc::new(nar);
        self.0.add(&nar);
        ChunkedDownload {
            scheduler: self.0.clone(),
            nar,
            limit: START,
            buf: BytesMut::new(),
        }
    }
}

/// A NAR on its way. Dropping it stops that.
pub(super) struct ChunkedDownload {
    scheduler: Arc<Scheduler>,
    nar: Arc<ChunkedNar>,
    limit: Duration,
    buf: BytesMut,
}

impl ChunkedDownload {
    /// Puts the next chunk behind what is left in the buffer, and tells who sent it; `None` when no more
    /// comes, be it complete or not.
    pub(super) async fn more(&mut self) -> Option<(&mut BytesMut, HostId)> {
        let (chunk, host) = loop {
            let before = self.received();
            match timeout(self.limit, self.chunk()).await {
                Ok(chunk) => break chunk?,
                // A chunk takes its time on a slow link.
                Err(_) if self.received() != before => {}
                Err(_) => return None,
            }
        };
        // Channels know by themselves what is too long.
        self.limit = Duration::MAX;
        match chunk.try_into_mut() {
            Ok(chunk) if self.buf.is_empty() => self.buf = chunk,
            Ok(chunk) => self.buf.extend_from_slice(&chunk),
            Err(chunk) => self.buf.extend_from_slice(&chunk),
        }
        Some((&mut self.buf, host))
    }

    /// Counts the bytes that come, whole chunks or not.
    pub(super) fn meter(&self) -> Arc<AtomicU64> {
        self.nar.received().clone()
    }

    fn received(&self) -> u64 {
        self.nar.received().load(Ordering::Relaxed)
    }

    async fn chunk(&self) -> Option<(Bytes, HostId)> {
        loop {
            let at_work = self.scheduler.at_work(self.nar.hosts());
            let (chunk, done) = self.nar.take(&at_work);
            self.scheduler
                .reopen_channels(&self.nar, self.nar.ignore_backoff);
            if chunk.is_some() {
                self.scheduler.wake();
                self.add_new_holders();
                return chunk;
            }
            if done {
                return None;
            }
            if !self.scheduler.can_bring(&self.nar) {
                // What has come out of order is kept meanwhile.
                sleep_until(self.nar.retry_at()?).await;
                self.scheduler.reopen_channels(&self.nar, true);
                continue;
            }
            let limit = match self.nar.waits_for_check() {
                true => LOOK,
                false => Duration::MAX,
            };
            let _ = timeout(limit, self.nar.changed()).await;
        }
    }

    /// Hosts may have told meanwhile that they have it too.
    fn add_new_holders(&self) {
        let path = &self.nar.info.path;
        let holders = self.scheduler.book.holders(path, &[]);
        let usable = self.scheduler.usable(path, &holders);
        self.scheduler.add_hosts(&self.nar, usable);
    }

    /// What was put together is not the NAR that was promised: it is not tried again, since nobody
    /// can tell whose chunk it was.
    pub(super) fn report_wrong_content(&self) {
        self.scheduler.book.record_wrong_chunks(&self.nar.info.path);
    }
}

impl Drop for ChunkedDownload {
    fn drop(&mut self) {
        self.scheduler.remove(&self.nar);
    }
}
