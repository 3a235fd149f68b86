//! The in-flight registry: what is being read ahead for all callers, so that two of them that want the same NAR get it
//! once.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::budget::Reservation;
use super::task::{OwnerId, ReadaheadTask, TaskReader};
use crate::model::{PathInfo, StorePath};

/// How many entries are kept before those of NARs that are gone are removed.
const PRUNE_FROM: usize = 1024;

#[derive(Default)]
pub(super) struct InFlight {
    tasks: Mutex<HashMap<StorePath, Weak<ReadaheadTask>>>,
    next_owner: AtomicU64,
}

impl InFlight {
    /// An id that no worker of any caller has had.
    pub(super) fn new_owner_id(&self) -> OwnerId {
        OwnerId(self.next_owner.fetch_add(1, Ordering::Relaxed))
    }

    /// Joins the same NAR that is read ahead for another caller, if nothing of it is dropped and `reserve` gives room for
    /// it, on disk if that is where it is.
    pub(super) fn join(
        &self,
        info: &PathInfo,
        reserve: impl FnOnce(bool) -> Option<Reservation>,
    ) -> Option<TaskReader> {
        let tasks = self.tasks.lock();
        let task = tasks.get(&info.path)?.upgrade()?;
        drop(tasks);
        let same = (task.info.nar_hash, task.info.nar_size) == (info.nar_hash, info.nar_size);
        same.then(|| task.join(reserve))?
    }

    pub(super) fn insert(&self, task: &Arc<ReadaheadTask>) {
        let mut tasks = self.tasks.lock();
        if tasks.len() >= PRUNE_FROM && tasks.len() == tasks.capacity() {
            tasks.retain(|_, task| task.strong_count() > 0);
        }
        tasks.insert(task.info.path.clone(), Arc::downgrade(task));
    }
}
