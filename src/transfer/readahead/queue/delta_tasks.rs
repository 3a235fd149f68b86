//! Tasks that come as differences.

use std::sync::Arc;

use super::backlog::LOOKAHEAD_PATHS;
use super::{AssignedTask, ReadaheadQueue};
use crate::model::StorePath;
use crate::pool::HostId;
use crate::transfer::deltas::{ChosenBase, DeltaState};

/// For how many paths it is decided at the same time.
const DECIDED_AT_ONCE: usize = 500;

impl ReadaheadQueue {
    /// The next task that should come as differences; `host` is where, unless that does not matter.
    pub(in crate::transfer::readahead) fn next_delta_task(
        self: &Arc<Self>,
        host: Option<HostId>,
    ) -> Option<(AssignedTask, Arc<ChosenBase>)> {
        let mut backlog = self.backlog.lock();
        if backlog.idle {
            return None;
        }
        let mut ready = backlog.order.ready().take(LOOKAHEAD_PATHS);
        let (path, base) = ready.find_map(|path| {
            let expected = backlog.expected.get(path)?;
            let info = &expected.info;
            if !self.deltas.is_possible(info)
                || expected.has_failed()
                || !self.room.suits(info.nar_size)
            {
                return None;
            }
            let holders = expected.holders(&self.bookkeeping);
            match self.deltas.state(&expected.info, &holders) {
                DeltaState::Yes(base) if host.is_none_or(|host| host == base.host) => {
                    Some((path.clone(), base))
                }
                _ => None,
            }
        })?;
        drop(ready);
        if let Some(reader) = self.join(&backlog.expected.get(&path)?.info) {
            backlog.track(&path, reader);
            drop(backlog);
            // There may be another one.
            self.wake();
            return None;
        }
        let owner = self.in_flight.new_owner_id();
        let of_host = (owner, base.host);
        let size = backlog.expected.get(&path)?.info.nar_size;
        let room = self.room.anywhere(size)?;
        let task = backlog.start_task(&path, of_host, room, &self.in_flight)?;
        drop(backlog);
        Some((self.assign_begun(owner, task), base))
    }

    /// Paths of which it has to be decided whether they come as differences from that host, when one of them could be
    /// fetched next.
    pub(in crate::transfer::readahead) fn undecided(&self) -> Option<(HostId, Vec<StorePath>)> {
        let backlog = self.backlog.lock();
        if backlog.idle {
            return None;
        }
        let undecided = |path: &StorePath| {
            let expected = backlog.expected.get(path)?;
            if !self.deltas.is_possible(&expected.info) {
                return None;
            }
            let holders = expected.holders(&self.bookkeeping);
            match self.deltas.state(&expected.info, &holders) {
                DeltaState::Undecided(host) if !expected.has_failed() => Some(host),
                _ => None,
            }
        };
        let host = backlog
            .order
            .ready()
            .take(LOOKAHEAD_PATHS)
            .find_map(undecided)?;
        let ready = backlog.order.ready();
        let mut paths: Vec<StorePath> = ready.take(LOOKAHEAD_PATHS).cloned().collect();
        // Those that come later too: each time costs a round trip.
        let later = backlog.expected.keys().take(DECIDED_AT_ONCE).cloned();
        paths.extend(later);
        paths.retain(|path| undecided(path) == Some(host));
        paths.sort();
        paths.dedup();
        Some((host, paths))
    }
}
