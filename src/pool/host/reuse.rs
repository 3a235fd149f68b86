//! What connections that lie idle are good for.

use std::sync::atomic::Ordering;

use super::HostPool;
use crate::remote::{Connection, Request};

/// What a connection is good for. Each gets what is good for the fewest others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// For any question: the remote has kept no answers.
    Anything,
    /// For questions yet: what the remote has kept is seconds old.
    QuestionsYet,
    /// For NARs: what the remote has kept is old.
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

    /// How gladly it is used for these requests; `None` when it is no good for them. Without requests
    /// it is not known yet what it is for.
    fn rank(self, requests: &[Request]) -> Option<Self> {
        let is_nar = |request| matches!(request, &Request::DumpStorePath { .. });
        let nars = !requests.is_empty() && requests.iter().all(is_nar);
        (nars || self != Self::Nars).then_some(self)
    }
}

impl HostPool {
    /// A connection that lies idle and is good for these requests, which have been sent on it.
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

    /// Whether there is a connection, as far as can be told without asking.
    pub(in crate::pool) fn is_connected(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
            || self
                .idle
                .retain(|connection| !connection.is_closed_by_remote())
    }

    /// Ends what lies idle, but for so many connections.
    pub(in crate::pool) fn close_idle(&self, keep: usize) {
        while self.shells.idle() > 0 {
            self.shells.close_one();
        }
        // What stays shall be good for whatever is asked next.
        self.idle.keep(keep, Use::of);
    }

    /// Ends one that lies idle, one of the least use. Whether there was any.
    pub(super) fn close_one_idle(&self) -> bool {
        if self.shells.idle() > 0 {
            self.shells.close_one();
            return true;
        }
        self.idle.take_best(|one| Some(Use::of(one))).is_some()
    }
}
