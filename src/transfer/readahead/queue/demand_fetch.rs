//! NARs that the caller wants now and that nobody has asked for yet.
//!
//! Small ones are left to a worker too: it has a connection, where a new channel would cost three
//! round trips, and what comes next is written right behind.

use std::sync::Arc;

use super::ReadaheadQueue;
use super::backlog::Backlog;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::readahead::SMALL_NAR;
use crate::transfer::readahead::memory_budget::reservation_for;
use crate::transfer::readahead::task::{OwnerId, ReadaheadTask, TaskReader};

/// A NAR that a worker of that host is to ask for before all others.
pub(in crate::transfer::readahead) struct DemandFetch {
    host: HostId,
    owner: OwnerId,
    task: Arc<ReadaheadTask>,
}

impl ReadaheadQueue {
    /// Has a worker bring a NAR now, if it is a small one.
    pub(in crate::transfer::readahead) fn request_now(
        &self,
        info: &PathInfo,
        holders: &[HostId],
    ) -> Option<TaskReader> {
        let suits = (1..=SMALL_NAR).contains(&info.nar_size) && info.nar_hash.is_some();
        if !suits || self.budget.largest() == 0 {
            return None;
        }
        let mut hosts = self.book.holders(&info.path, holders);
        hosts.retain(|host| !self.book.sent_wrong_content(*host, &info.path));
        self.book
            .rates
            .put_late_ones_last(&mut hosts, info.nar_size);
        let host = *self.book.pool.in_order_of_health(&hosts).first()?;
        if !self.book.pool.is_well(host) {
            return None;
        }
        let room = self.budget.reserve(reservation_for(info.nar_size))?;
        let owner = self.in_flight.new_owner();
        let holders = Arc::from(holders);
        let reader = ReadaheadTask::start(Arc::new(info.clone()), holders, (owner, host), room);
        reader.want();
        let task = reader.task.clone();
        self.state
            .lock()
            .urgent
            .push_back(DemandFetch { host, owner, task });
        self.wake();
        Some(reader)
    }

    /// Takes back what no worker has asked for yet. Whether it is.
    pub(in crate::transfer::readahead) fn cancel(&self, reader: &TaskReader) -> bool {
        let mut state = self.state.lock();
        let before = state.urgent.len();
        let urgent = &mut state.urgent;
        urgent.retain(|urgent| !Arc::ptr_eq(&urgent.task, &reader.task));
        urgent.len() < before
    }
}

impl Backlog {
    /// What a worker of that host is to ask for first, if `fits` lets it.
    pub(in crate::transfer::readahead) fn next_demand_fetch(
        &mut self,
        host: HostId,
        fits: impl Fn(u64) -> bool,
    ) -> Option<(OwnerId, Arc<ReadaheadTask>)> {
        let suits = |urgent: &DemandFetch| urgent.host == host && fits(urgent.task.info.nar_size);
        let place = self.urgent.iter().position(suits)?;
        let urgent = self.urgent.remove(place)?;
        Some((urgent.owner, urgent.task))
    }

    /// How many bytes wait for workers of that host.
    pub(in crate::transfer::readahead) fn demanded_bytes(&self, host: HostId) -> u64 {
        let mine = self.urgent.iter().filter(|urgent| urgent.host == host);
        mine.map(|urgent| urgent.task.info.nar_size).sum()
    }
}
