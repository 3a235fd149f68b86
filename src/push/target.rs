//! What all lanes to one host share: what is missing there, what was sent, how it is told.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::block_state::BlockState;
use super::nars::Nars;
use super::plan::Plan;
use super::schedule::{LaneId, Role, Schedule};
use super::{CompressedBytes, PathFault, PushOptions, PushProgress, PushTotals};
use crate::pool::{HostId, Pool};
use crate::remote::{Compress, SentBlock, Version};
use crate::transfer::progress::{TransferInfo, TransferProgress};

/// What the hosts of a push share.
pub(super) struct Common {
    pub(super) pool: Arc<Pool>,
    pub(super) plan: Arc<Plan>,
    pub(super) nars: Nars,
    pub(super) options: PushOptions,
    pub(super) progress: PushProgress,
}

/// One host of a push.
pub(super) struct Target {
    pub(super) common: Arc<Common>,
    pub(super) id: HostId,
    name: String,
    schedule: Mutex<Schedule>,
    /// The schedule has changed.
    changed: Notify,
    pub(super) wire: AtomicU64,
    /// In a row, without an acknowledgement in between.
    pub(super) failures: AtomicU32,
    /// How many lanes there have been.
    pub(super) lanes: AtomicU64,
    /// Whether it has answered what it has.
    pub(super) was_asked: AtomicBool,
    is_old_version_told: AtomicBool,
    /// How blocks are compressed, if they are.
    compress: Mutex<Option<Compress>>,
    /// What went compressed.
    compressed: Mutex<CompressedBytes>,
    /// What lanes that take blocks have come to.
    pub(super) blocks: Mutex<BlockState>,
}

impl Target {
    pub(super) fn new(common: Arc<Common>, id: HostId) -> Self {
        Self {
            name: common.pool.host(id).to_string(),
            schedule: Mutex::new(Schedule::new(common.plan.clone())),
            changed: Notify::new(),
            wire: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            lanes: AtomicU64::new(0),
            was_asked: AtomicBool::new(false),
            is_old_version_told: AtomicBool::new(false),
            compress: Mutex::default(),
            compressed: Mutex::default(),
            blocks: Mutex::default(),
            common,
            id,
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.common.plan
    }

    pub(super) fn nars(&self) -> &Nars {
        &self.common.nars
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn totals(&self) -> &PushTotals {
        &self.common.progress.totals
    }

    pub(super) fn show(&self, info: &TransferInfo) -> Box<dyn TransferProgress> {
        self.common.progress.transfers.start(info)
    }

    pub(super) fn count_wire(&self, bytes: u64) {
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        let all = &self.totals().wire_bytes;
        all.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A block was written.
    pub(super) fn count_block(&self, block: SentBlock) {
        self.count_wire(block.wire_bytes);
        if block.is_compressed {
            let mut compressed = self.compressed.lock();
            compressed.bytes += block.bytes;
            compressed.wire_bytes += block.wire_bytes;
        }
    }

    /// What went compressed.
    pub(super) fn compressed(&self) -> CompressedBytes {
        *self.compressed.lock()
    }

    /// How blocks are compressed from now on; as they are without.
    pub(super) fn set_compress(&self, compress: Option<Compress>) {
        *self.compress.lock() = compress;
    }

    /// How blocks are compressed.
    pub(super) fn compress(&self) -> Option<Compress> {
        *self.compress.lock()
    }

    /// Old servers take less of what is known of a path.
    pub(super) fn warn_of_old_version(&self, version: Version) {
        if !self.is_old_version_told.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{}: its serve protocol is {version}, older than 2.5 (Nix 2.2): signatures and content addresses of what is sent are lost there",
                self.name
            );
        }
    }

    /// Changes the schedule; lanes look at it anew.
    pub(super) fn with_schedule<T>(&self, change: impl FnOnce(&mut Schedule) -> T) -> T {
        let changed = change(&mut self.schedule.lock());
        self.changed.notify_waiters();
        changed
    }

    /// The next path for a lane, once there is one; `None` when all is done.
    pub(super) async fn next(&self, lane: LaneId, role: Role) -> Option<usize> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut schedule = self.schedule.lock();
                if let Some(place) = schedule.next(lane, role) {
                    return Some(place);
                }
                if schedule.is_finished() {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// The next path for a lane, if there is one now.
    pub(super) fn next_now(&self, lane: LaneId, role: Role) -> Option<usize> {
        self.schedule.lock().next(lane, role)
    }

    /// Whether a path that is on its way on that lane is better sent anew by the lane that takes blocks.
    pub(super) fn is_left_to_another(&self, lane: LaneId, place: usize) -> bool {
        self.look(|schedule| schedule.is_left_to_another(lane) && !schedule.is_plain(place))
    }

    /// It cannot be sent from here, to whichever host.
    pub(super) fn fail_here(&self, place: usize, fault: PathFault) {
        let path = |place: usize| self.plan().info(place).path.clone();
        let consequence = |place, reference| PathFault::Reference {
            host: self.name.clone(),
            path: path(place),
            reference: path(reference),
        };
        self.with_schedule(|schedule| schedule.fail(place, Arc::new(fault), consequence));
    }

    /// The host has taken it.
    pub(super) fn acknowledged(&self, place: usize) {
        self.failures.store(0, Ordering::Relaxed);
        let bytes = self.plan().info(place).nar_size;
        self.totals().sent(bytes);
        self.with_schedule(|schedule| schedule.sent(place));
    }

    /// The names of the keys that have signed a path.
    pub(super) fn keys_of(&self, place: usize) -> HashSet<&str> {
        let sigs = self.plan().signed_info(place).sigs.iter();
        sigs.filter_map(|sig| sig.split_once(':').map(|(name, _)| name))
            .collect()
    }

    /// Looks at the schedule.
    pub(super) fn look<T>(&self, at: impl FnOnce(&Schedule) -> T) -> T {
        at(&self.schedule.lock())
    }
}
