//! NARs that the caller wants now and that nobody has asked for yet.
//!
//! Small ones are left to a worker too: it has a connection, where a new channel would cost three
//! round trips, and what comes next is written right behind.

use std::sync::Arc;

use super::SMALL_NAR;
use super::budget::room_for;
use super::desk::Desk;
use super::job::{Job, Reader, Token};
use super::state::State;
use crate::model::PathInfo;
use crate::pool::HostId;

/// A NAR that a worker of that host is to ask for before all others.
pub(super) struct Urgent {
    host: HostId,
    token: Token,
    job: Arc<Job>,
}

impl Desk {
    /// Has a worker bring a NAR now, if it is a small one.
    pub(super) fn hurry(&self, info: &PathInfo, holders: &[HostId]) -> Option<Reader> {
        let suits = (1..=SMALL_NAR).contains(&info.nar_size) && info.nar_hash.is_some();
        if !suits || self.budget.largest() == 0 {
            return None;
        }
        let mut hosts = self.book.holders(&info.path, holders);
        hosts.retain(|host| !self.book.is_spoilt(*host, &info.path));
        self.book
            .rates
            .put_late_ones_last(&mut hosts, info.nar_size);
        let host = *self.book.pool.in_order_of_health(&hosts).first()?;
        if !self.book.pool.is_well(host) {
            return None;
        }
        let room = self.budget.reserve(room_for(info.nar_size))?;
        let token = self.shelf.new_token();
        let holders = Arc::from(holders);
        let reader = Job::start(Arc::new(info.clone()), holders, (token, host), room);
        reader.want();
        let job = reader.job.clone();
        self.state
            .lock()
            .urgent
            .push_back(Urgent { host, token, job });
        self.wake();
        Some(reader)
    }

    /// Takes back what no worker has asked for yet. Whether it is.
    pub(super) fn withdraw(&self, reader: &Reader) -> bool {
        let mut state = self.state.lock();
        let before = state.urgent.len();
        let urgent = &mut state.urgent;
        urgent.retain(|urgent| !Arc::ptr_eq(&urgent.job, &reader.job));
        urgent.len() < before
    }
}

impl State {
    /// What a worker of that host is to ask for first, if `fits` lets it.
    pub(super) fn next_urgent(
        &mut self,
        host: HostId,
        fits: impl Fn(u64) -> bool,
    ) -> Option<(Token, Arc<Job>)> {
        let suits = |urgent: &Urgent| urgent.host == host && fits(urgent.job.info.nar_size);
        let place = self.urgent.iter().position(suits)?;
        let urgent = self.urgent.remove(place)?;
        Some((urgent.token, urgent.job))
    }

    /// How many bytes wait for workers of that host.
    pub(super) fn urgent_for(&self, host: HostId) -> u64 {
        let mine = self.urgent.iter().filter(|urgent| urgent.host == host);
        mine.map(|urgent| urgent.job.info.nar_size).sum()
    }
}
