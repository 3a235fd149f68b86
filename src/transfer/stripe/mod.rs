//! Large NARs over several channels and hosts.
//!
//! ssh moves at most 2 MiB of a channel in a round trip, so on a long link a large NAR is much
//! faster in parts; and from two hosts it comes twice as fast as from one. Parts are read through
//! shells, where accounts have them, and put together in order. The channels are shared by all NARs:
//! who is waited for comes first, and what it leaves of them goes to those that are read ahead.
//! Whatever goes wrong here ends with the plain transfer, which goes on from the same byte.
//!
//! Nothing of a large NAR can be verified before its end, so what one host sends is compared with what
//! another one has, part by part, before it is passed on: the other one sends a digest only. Where the two
//! differ, both are asked for the digest of the whole NAR, and what the wrong one has sent is replaced.
//!
//! | module | what it does |
//! | --- | --- |
//! | `parts` | which part is asked of whom; pure |
//! | `proof` | who is right when two hosts disagree; pure |
//! | `nar` | one NAR |
//! | `shared` | all NARs, and the channels of each host |
//! | `channel` | one shell on one host |
//! | `compared` | a NAR that comes straight through and is only compared here |

mod channel;
mod compared;
mod nar;
mod parts;
mod proof;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{sleep_until, timeout};

use super::book::Book;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::wire::nar::Decoder;
pub(super) use compared::Compared;
use nar::Nar;
pub(super) use nar::{Priority, URGENT};
use shared::Shared;

/// A round trip from which on several channels to one host are faster than one: below it, the
/// window of one lets 200 MB/s through.
pub(super) const FAR: Duration = Duration::from_millis(10);

/// What is not worth the round trips that shells cost, in bytes.
pub(super) const LEAST: u64 = 8 << 20;

/// How long the first part may take before the NAR is asked for in the plain way.
const START: Duration = Duration::from_secs(4);

/// How often it is looked whether a part that has come is still to be held back.
const LOOK: Duration = Duration::from_millis(250);

/// Brings NARs in parts, with tasks of its own that end when it is dropped.
pub(super) struct Striper(Arc<Shared>);

impl Drop for Striper {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Striper {
    pub(super) fn new(book: Arc<Book>) -> Self {
        Self(Arc::new(Shared::new(book)))
    }

    /// Whether a NAR should come in parts, from its beginning.
    pub(super) fn suits(&self, info: &PathInfo, holders: &[HostId]) -> bool {
        self.is_possible(info) && self.is_faster(info, 0, &self.usable(info, holders))
    }

    fn is_possible(&self, info: &PathInfo) -> bool {
        info.nar_hash.is_some() && !self.0.book.came_wrongly_in_parts(&info.path)
    }

    /// Whether these hosts bring what follows the byte `from` faster in parts.
    fn is_faster(&self, info: &PathInfo, from: u64, hosts: &[HostId]) -> bool {
        // Of a host that was not talked to yet nobody knows how far it is.
        let may_be_far = |host: &HostId| self.0.is_far(*host) != Some(false);
        let large = info.nar_size.saturating_sub(from) >= LEAST;
        large && (hosts.len() > 1 || hosts.iter().any(may_be_far))
    }

    fn usable(&self, info: &PathInfo, holders: &[HostId]) -> Vec<HostId> {
        self.0.usable(&info.path, holders)
    }

    /// Starts to bring what follows the byte `from` of a NAR, if that is of use: since it comes faster
    /// so, or since only so what there is already need not come again.
    pub(super) fn start(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        from: u64,
        priority: Priority,
    ) -> Option<InParts> {
        if !self.is_possible(info) {
            return None;
        }
        let mut hosts = self.usable(info, holders);
        let spares = from >= LEAST && from < info.nar_size;
        if !spares && !self.is_faster(info, from, &hosts) {
            return None;
        }
        // The one that broke off may be all there is.
        let nevertheless = hosts.is_empty();
        if nevertheless {
            let may = |host: &HostId| self.0.may_have_parts(*host, &info.path);
            hosts.extend(holders.iter().copied().filter(may));
        }
        if hosts.is_empty() {
            return None;
        }
        let only_if_far = hosts.len() == 1 && !spares;
        let info = Arc::new(info.clone());
        let mut nar = Nar::new(info, hosts, from, priority);
        nar.only_if_far = only_if_far;
        nar.nevertheless = nevertheless;
        Some(self.bring(nar))
    }

    /// Has what `sender` sends straight through, from where `decoder` has come to, compared with what other hosts have,
    /// if one can do that and the rest is large.
    pub(super) fn compare(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        sender: HostId,
        decoder: Decoder,
    ) -> Option<Compared> {
        let from = decoder.bytes_read();
        if info.nar_hash.is_none() || info.nar_size.saturating_sub(from) < LEAST {
            return None;
        }
        let mut hosts = self.usable(info, holders);
        hosts.retain(|host| *host != sender);
        if hosts.is_empty() {
            return None;
        }
        let nar = Nar::to_compare(Arc::new(info.clone()), hosts, from);
        Some(Compared::new(self.bring(nar), sender, decoder))
    }

    fn bring(&self, nar: Nar) -> InParts {
        let nar = Arc::new(nar);
        self.0.add(&nar);
        InParts {
            shared: self.0.clone(),
            nar,
            limit: START,
            buf: BytesMut::new(),
        }
    }
}

/// A NAR on its way. Dropping it stops that.
pub(super) struct InParts {
    shared: Arc<Shared>,
    nar: Arc<Nar>,
    limit: Duration,
    buf: BytesMut,
}

impl InParts {
    /// Puts the next part behind what is left in the buffer, and tells who sent it; `None` when no more
    /// comes, be it complete or not.
    pub(super) async fn more(&mut self) -> Option<(&mut BytesMut, HostId)> {
        let (part, host) = loop {
            let before = self.received();
            match timeout(self.limit, self.part()).await {
                Ok(part) => break part?,
                // A part takes its time on a slow link.
                Err(_) if self.received() != before => {}
                Err(_) => return None,
            }
        };
        // Channels know by themselves what is too long.
        self.limit = Duration::MAX;
        match part.try_into_mut() {
            Ok(part) if self.buf.is_empty() => self.buf = part,
            Ok(part) => self.buf.extend_from_slice(&part),
            Err(part) => self.buf.extend_from_slice(&part),
        }
        Some((&mut self.buf, host))
    }

    /// Counts the bytes that come, whole parts or not.
    pub(super) fn meter(&self) -> Arc<AtomicU64> {
        self.nar.received().clone()
    }

    fn received(&self) -> u64 {
        self.nar.received().load(Ordering::Relaxed)
    }

    async fn part(&self) -> Option<(Bytes, HostId)> {
        loop {
            let at_work = self.shared.at_work(self.nar.hosts());
            let (part, done) = self.nar.take(&at_work);
            self.shared.call_back(&self.nar, self.nar.nevertheless);
            if part.is_some() {
                self.shared.wake();
                self.look_around();
                return part;
            }
            if done {
                return None;
            }
            if !self.shared.can_bring(&self.nar) {
                // What has come out of order is kept meanwhile.
                sleep_until(self.nar.retry_at()?).await;
                self.shared.call_back(&self.nar, true);
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
    fn look_around(&self) {
        let path = &self.nar.info.path;
        let holders = self.shared.book.holders(path, &[]);
        let usable = self.shared.usable(path, &holders);
        self.shared.add_hosts(&self.nar, usable);
    }

    /// What was put together is not the NAR that was promised: it is not tried again, since nobody
    /// can tell whose part it was.
    pub(super) fn came_wrongly(&self) {
        self.shared.book.parts_came_wrongly(&self.nar.info.path);
    }
}

impl Drop for InParts {
    fn drop(&mut self) {
        self.shared.remove(&self.nar);
    }
}
