//! Tasks that come as differences, or are made from what is here alone.

use std::sync::Arc;

use super::backlog::{ExpectedPath, LOOKAHEAD_PATHS};
use super::{AssignedTask, ReadaheadQueue};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::deltas::{ChosenBase, DeltaState, Rebuild};
use crate::transfer::readahead::room::{CallerRoom, Room};

/// For how many paths it is decided at the same time.
const DECIDED_AT_ONCE: usize = 500;

/// How many bytes are made ahead from what is here: it is faster than any caller.
const REBUILT_AHEAD_MAX: u64 = 32 << 20;

impl ReadaheadQueue {
    /// The next task that should come as differences; `host` is where, unless that does not matter.
    pub(in crate::transfer::readahead) fn next_delta_task(
        self: &Arc<Self>,
        host: Option<HostId>,
    ) -> Option<(AssignedTask, Arc<ChosenBase>)> {
        let choose = |state| match state {
            DeltaState::Yes(base) if host.is_none_or(|host| host == base.host) => {
                Some((base.host, base))
            }
            _ => None,
        };
        self.next_of_state(choose, CallerRoom::anywhere)
    }

    /// The next task that may be made from what is here alone.
    pub(in crate::transfer::readahead) fn next_rebuild_task(
        self: &Arc<Self>,
    ) -> Option<(AssignedTask, Arc<Rebuild>)> {
        let choose = |state| match state {
            DeltaState::Rebuild(rebuild) => Some((rebuild.host, rebuild)),
            _ => None,
        };
        if self.backlog.lock().rebuilt_ahead() >= REBUILT_AHEAD_MAX {
            return None;
        }
        // What is on a disk here anyway is not written to one again.
        let (assigned, rebuild) = self.next_of_state(choose, CallerRoom::in_memory)?;
        let mut backlog = self.backlog.lock();
        if let Some(entry) = backlog.tasks.get_mut(&assigned.task.info.path) {
            entry.is_rebuild = true;
        }
        drop(backlog);
        Some((assigned, rebuild))
    }

    /// The next task that `choose` gives something of, if there is room for it.
    fn next_of_state<T>(
        self: &Arc<Self>,
        choose: impl Fn(DeltaState) -> Option<(HostId, T)>,
        room: impl Fn(&CallerRoom, u64) -> Option<Room>,
    ) -> Option<(AssignedTask, T)> {
        let mut backlog = self.backlog.lock();
        if backlog.idle {
            return None;
        }
        let mut ready = backlog.order.ready().take(LOOKAHEAD_PATHS);
        let (path, (host, chosen)) = ready.find_map(|path| {
            let expected = backlog.expected.get(path)?;
            let info = &expected.info;
            if expected.has_failed()
                || !self.deltas.is_possible(info)
                || !self.room.suits(info.nar_size)
            {
                return None;
            }
            let holders = expected.holders(&self.bookkeeping);
            let chosen = choose(self.deltas.state(&expected.info, &holders))?;
            Some((path.clone(), chosen))
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
        let size = backlog.expected.get(&path)?.info.nar_size;
        let room = room(&self.room, size)?;
        let task = backlog.start_task(&path, (owner, host), room, &self.in_flight)?;
        drop(backlog);
        Some((self.assign_begun(owner, task), chosen))
    }

    /// Paths of which it has to be decided whether they come as differences from that host, when one of them could be
    /// fetched next.
    pub(in crate::transfer::readahead) fn undecided(&self) -> Option<(HostId, Vec<Arc<PathInfo>>)> {
        let backlog = self.backlog.lock();
        if backlog.idle {
            return None;
        }
        let undecided = |expected: &ExpectedPath| {
            if !self.deltas.is_possible(&expected.info) {
                return None;
            }
            let holders = expected.holders(&self.bookkeeping);
            match self.deltas.state(&expected.info, &holders) {
                DeltaState::Undecided(host) if !expected.has_failed() => Some(host),
                _ => None,
            }
        };
        let ready = || {
            let ready = backlog.order.ready().take(LOOKAHEAD_PATHS);
            ready.filter_map(|path| backlog.expected.get(path))
        };
        let host = ready().find_map(undecided)?;
        // Those that come later too: each time costs a round trip.
        let later = backlog.expected.values().take(DECIDED_AT_ONCE);
        let all = ready().chain(later);
        let all = all.filter(|expected| undecided(expected) == Some(host));
        let mut infos: Vec<Arc<PathInfo>> = all.map(|expected| expected.info.clone()).collect();
        infos.sort_by(|a, b| a.path.cmp(&b.path));
        infos.dedup_by(|a, b| a.path == b.path);
        Some((host, infos))
    }
}
