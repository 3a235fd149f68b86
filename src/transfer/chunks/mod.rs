//! Large NARs over several channels and hosts.
//!
//! ssh moves at most 2 MiB of a channel in a round trip. On a long link a large NAR is therefore much faster in chunks,
//! and from two hosts it comes twice as fast as from one. Chunks are read through shells, where accounts have them, and
//! put together in order. All NARs share the channels: a NAR that a caller waits for comes first, and readahead gets the
//! rest. Whatever goes wrong here ends the chunks, and the plain dump goes on from the same byte.
//!
//! Nothing of a large NAR can be verified before its end. So each chunk is compared with what another host has before it
//! is passed on; the other host sends a digest only. Where the two differ, both are asked for the digest of the whole
//! NAR, and what the wrong one has sent is replaced.
//!
//! | module | what it does |
//! | --- | --- |
//! | `window` | which chunk is requested from which channel; pure |
//! | `disputes` | which host is right when two disagree; pure |
//! | `chunked_nar` | one NAR: its window, its hosts, comparing |
//! | `scheduler` | all NARs, the channels of each host, and what each channel does next |
//! | `channel` | one shell on one host |
//! | `download` | one NAR, for the source or the readahead that takes it |
//! | `compared_dump` | a plain dump whose bytes are only compared here |

mod channel;
mod chunked_nar;
mod compared_dump;
mod disputes;
mod download;
mod scheduler;
mod window;

use std::sync::Arc;

use super::hosts::HostBookkeeping;
use super::verify::HELD_BACK_MAX;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::wire::nar::Decoder;
use crate::wire::nar::layout::Layout;
use chunked_nar::ChunkedNar;
pub(super) use chunked_nar::contents_digest;
pub(super) use chunked_nar::{Priority, URGENT};
pub(super) use compared_dump::ComparedDump;
pub(super) use download::ChunkedDownload;
pub(super) use scheduler::FAR;
use scheduler::Scheduler;

/// The smallest NAR, or rest of one, in bytes, that is worth the round trips that shells cost.
pub(super) const MIN_NAR_SIZE: u64 = HELD_BACK_MAX + 1;

/// Downloads NARs in chunks, with tasks of its own that end when it is dropped.
pub(super) struct ChunkedDownloads(Arc<Scheduler>);

impl Drop for ChunkedDownloads {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl ChunkedDownloads {
    pub(super) fn new(bookkeeping: Arc<HostBookkeeping>) -> Self {
        Self(Arc::new(Scheduler::new(bookkeeping)))
    }

    /// Whether a NAR should come in chunks, from its beginning.
    pub(super) fn suits(&self, info: &PathInfo, holders: &[HostId]) -> bool {
        self.is_possible(info) && self.is_faster(info, 0, &self.usable(info, holders))
    }

    /// Whether a NAR may come in chunks at all.
    pub(super) fn is_possible(&self, info: &PathInfo) -> bool {
        info.nar_hash.is_some() && !self.0.bookkeeping.had_wrong_chunks(&info.path)
    }

    /// Whether these hosts bring what follows the byte `from` faster in chunks.
    fn is_faster(&self, info: &PathInfo, from: u64, hosts: &[HostId]) -> bool {
        // How far a host is shows only once it was connected to.
        let may_be_far =
            |host: &HostId| self.0.is_far(*host) != Some(false) || self.0.is_slow(*host);
        let large = info.nar_size.saturating_sub(from) >= MIN_NAR_SIZE;
        large && (hosts.len() > 1 || hosts.iter().any(may_be_far))
    }

    /// Those of `holders` that may be asked for parts of a NAR now.
    fn usable(&self, info: &PathInfo, holders: &[HostId]) -> Vec<HostId> {
        self.0.usable(&info.path, holders)
    }

    /// The same; if there are none, those that rest after a failure, and whether that is so.
    pub(super) fn usable_or_resting(
        &self,
        info: &PathInfo,
        holders: &[HostId],
    ) -> (Vec<HostId>, bool) {
        let hosts = self.usable(info, holders);
        if !hosts.is_empty() {
            return (hosts, false);
        }
        let may = |host: &HostId| self.0.may_bring_chunks(*host, &info.path);
        (holders.iter().copied().filter(may).collect(), true)
    }

    /// Starts to bring what follows the byte `from` of a NAR, if that is of use: because it comes faster in chunks, or
    /// because only so the first bytes need not come again.
    pub(super) fn start(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        from: u64,
        priority: Priority,
    ) -> Option<ChunkedDownload> {
        self.start_with(info, holders, from, priority, None)
    }

    /// The same, where it is known already how the files lie at one host. That host brings its share however small the
    /// files are.
    pub(super) fn start_with(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        from: u64,
        priority: Priority,
        index: Option<(HostId, Layout)>,
    ) -> Option<ChunkedDownload> {
        if !self.is_possible(info) {
            return None;
        }
        let hosts = self.usable(info, holders);
        let spares = from >= MIN_NAR_SIZE && from < info.nar_size;
        if !spares && !self.is_faster(info, from, &hosts) {
            return None;
        }
        // The host that broke off may be the only one.
        let (hosts, ignore_backoff) = self.usable_or_resting(info, holders);
        if hosts.is_empty() {
            return None;
        }
        let only_if_far = hosts.len() == 1 && !spares;
        let info = Arc::new(info.clone());
        let mut nar = ChunkedNar::new(info, hosts, from, priority);
        nar.only_if_far = only_if_far;
        nar.ignore_backoff = ignore_backoff;
        if let Some((host, layout)) = index {
            nar.set_file_index(host, Some(layout));
        }
        Some(self.start_download(nar))
    }

    /// Compares the plain dump of `sender`, from the position of `decoder` on, with what other hosts have. `None` when no
    /// other host can, or little is missing.
    pub(super) fn compare(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        sender: HostId,
        decoder: Decoder,
    ) -> Option<ComparedDump> {
        let from = decoder.bytes_read();
        if info.nar_hash.is_none() || info.nar_size.saturating_sub(from) < MIN_NAR_SIZE {
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
        ChunkedDownload::start(self.0.clone(), Arc::new(nar))
    }
}
