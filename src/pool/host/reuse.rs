//! Which idle connection to use for which request.

use std::sync::atomic::Ordering;

use super::HostPool;
use crate::remote::{Connection, Request};

/// What a connection is good for. A request gets the one that is good for the fewest others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Any request: the remote has kept no answers.
    Anything,
    /// Questions, for now: what the remote has kept is seconds old.
    QuestionsYet,
    /// NARs only: what the remote has kept is old.
    Nars,
}

impl Use {
    fn of(connection: &Connection) -> Self {
        match (connection.may_cache_answers(), connection.is_up_to_date()) {
            (false, _) => Self::Anything,
            (true, true) => Self::QuestionsYet,
            (true, false) => Self::Nars,
        }
    }

    /// The rank for these requests, highest first; `None` when it is of no use for them. Without requests it
    /// is not known yet what it is for.
    fn rank(self, requests: &[Request]) -> Option<Self> {
        let is_nar = |request| matches!(request, &Request::DumpStorePath { .. });
        let nars = !requests.is_empty() && requests.iter().all(is_nar);
        (nars || self != Self::Nars).then_some(self)
    }
}

impl HostPool {
    /// An idle connection that is good for these requests, which have been sent on it.
    pub(super) fn take_idle(&self, requests: &[Request]) -> Option<Connection> {
        loop {
            let best = self.idle.take_best(|one| Use::of(one).rank(requests));
            let mut connection = best?;
            if !connection.is_closed_by_remote() {
                requests.iter().for_each(|request| connection.send(request));
                return Some(connection);
            }
        }
    }

    /// Whether there is a working connection, as far as is known without asking.
    pub(in crate::pool) fn is_connected(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
            || self
                .idle
                .retain(|connection| !connection.is_closed_by_remote())
    }

    /// Closes what lies idle, except for `keep` connections.
    pub(in crate::pool) fn close_idle(&self, keep: usize) {
        while self.shells.idle() > 0 {
            self.shells.close_one();
        }
        // Those stay that are good for most requests.
        self.idle.keep(keep, Use::of);
    }

    /// Closes the least useful idle shell or connection. Whether there was any.
    pub(super) fn close_one_idle(&self) -> bool {
        if self.shells.idle() > 0 {
            self.shells.close_one();
            return true;
        }
        self.idle.take_best(|one| Some(Use::of(one))).is_some()
    }
}
