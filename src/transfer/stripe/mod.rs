//! Large NARs over several channels and hosts.
//!
//! ssh moves at most 2 MiB of a channel in a round trip, so on a long link a large NAR is much
//! faster in parts; and from two hosts it comes twice as fast as from one. Parts are read through
//! shells, where accounts have them, and put together in order. The channels are shared by all NARs:
//! who is waited for comes first, and what it leaves of them goes to those that are read ahead.
//! Whatever goes wrong here ends with the plain transfer, which goes on from the same byte.
//!
//! | module | what it does |
//! | --- | --- |
//! | `parts` | which part is asked of whom; pure |
//! | `nar` | one NAR |
//! | `shared` | all NARs, and the channels of each host |
//! | `channel` | one shell on one host |

mod channel;
mod nar;
mod parts;
mod shared;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::book::Book;
use crate::model::PathInfo;
use crate::pool::HostId;
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

    /// Whether a NAR should come in parts.
    pub(super) fn suits(&self, info: &PathInfo, holders: &[HostId]) -> bool {
        if info.nar_size < LEAST || !self.is_possible(info) {
            return false;
        }
        let hosts = self.usable(info, holders);
        // Of a host that was not talked to yet nobody knows how far it is.
        let may_be_far = |host: &HostId| self.0.is_far(*host) != Some(false);
        hosts.len() > 1 || hosts.iter().any(may_be_far)
    }

    fn is_possible(&self, info: &PathInfo) -> bool {
        info.nar_hash.is_some() && !self.0.book.came_wrongly_in_parts(&info.path)
    }

    fn usable(&self, info: &PathInfo, holders: &[HostId]) -> Vec<HostId> {
        self.0.usable(&info.path, holders)
    }

    /// Starts to bring a NAR, if it suits.
    pub(super) fn start(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        priority: Priority,
    ) -> Option<InParts> {
        self.suits(info, holders).then(|| {
            let hosts = self.usable(info, holders);
            let only_if_far = hosts.len() == 1;
            let info = Arc::new(info.clone());
            self.bring(Nar::new(info, hosts, 0, only_if_far, priority), false)
        })
    }

    /// Starts to bring the rest of a NAR whose transfer broke at the byte `from`, if that spares
    /// enough.
    pub(super) fn go_on(&self, info: &PathInfo, holders: &[HostId], from: u64) -> Option<InParts> {
        if from < LEAST || !self.is_possible(info) {
            return None;
        }
        let mut hosts = self.usable(info, holders);
        // The one that broke off may be all there is.
        let nevertheless = hosts.is_empty();
        if nevertheless {
            let may = |host: &HostId| self.0.may_have_parts(*host, &info.path);
            hosts.extend(holders.iter().copied().filter(may));
        }
        let urgent = Arc::new(AtomicU64::new(URGENT));
        let nar = Nar::new(Arc::new(info.clone()), hosts, from, false, urgent);
        Some(self.bring(nar, nevertheless))
    }

    fn bring(&self, nar: Nar, nevertheless: bool) -> InParts {
        let nar = Arc::new(nar);
        self.0.add(&nar, nevertheless);
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
        let (part, host) = timeout(self.limit, self.part()).await.ok()??;
        // Channels know by themselves what is too long.
        self.limit = Duration::MAX;
        match part.try_into_mut() {
            Ok(part) if self.buf.is_empty() => self.buf = part,
            Ok(part) => self.buf.extend_from_slice(&part),
            Err(part) => self.buf.extend_from_slice(&part),
        }
        Some((&mut self.buf, host))
    }

    async fn part(&self) -> Option<(Bytes, HostId)> {
        loop {
            let (part, done) = self.nar.take();
            if part.is_some() {
                self.shared.wake();
                self.look_around();
                return part;
            }
            if done || !self.shared.can_bring(&self.nar) {
                return None;
            }
            self.nar.changed().await;
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
