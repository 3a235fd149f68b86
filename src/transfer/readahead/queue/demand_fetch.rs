//! NARs that the caller waits for and that no worker has requested yet.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::pool::HostId;
use crate::transfer::readahead::task::{OwnerId, ReadaheadTask};

/// A NAR that a worker of one host is to request before all others.
pub(super) struct DemandFetch {
    pub(super) host: HostId,
    pub(super) owner: OwnerId,
    pub(super) task: Arc<ReadaheadTask>,
}

/// All of one caller, the oldest first.
#[derive(Default)]
pub(super) struct DemandFetches(VecDeque<DemandFetch>);

impl DemandFetches {
    pub(super) fn push(&mut self, fetch: DemandFetch) {
        self.0.push_back(fetch);
    }

    /// Removes what a worker of that host is to request first, if `fits` lets it.
    pub(super) fn next_for(
        &mut self,
        host: HostId,
        fits: impl Fn(u64) -> bool,
    ) -> Option<DemandFetch> {
        let suits = |fetch: &DemandFetch| fetch.host == host && fits(fetch.task.info.nar_size);
        let at = self.0.iter().position(suits)?;
        self.0.remove(at)
    }

    /// How many bytes wait for workers of that host.
    pub(super) fn bytes_for(&self, host: HostId) -> u64 {
        let mine = self.0.iter().filter(|fetch| fetch.host == host);
        mine.map(|fetch| fetch.task.info.nar_size).sum()
    }

    /// Removes a task that no worker has requested yet. Whether it was there.
    pub(super) fn cancel(&mut self, task: &Arc<ReadaheadTask>) -> bool {
        let before = self.0.len();
        self.0.retain(|fetch| !Arc::ptr_eq(&fetch.task, task));
        self.0.len() < before
    }
}
