//! Who is served: clients that were started by the same process are one caller, with one readahead.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::transfer::{Caller, Transfers};

/// How long a caller is remembered that has no connection: Nix 1.x starts a process for each path.
const GRACE: Duration = Duration::from_secs(30);

/// All callers.
pub(super) struct Callers {
    transfers: Arc<Transfers>,
    known: Mutex<HashMap<u64, Known>>,
}

struct Known {
    caller: Arc<Caller>,
    connections: usize,
    /// When the last of them ended.
    left: Instant,
}

/// One connection of a caller.
pub(super) struct Present {
    callers: Arc<Callers>,
    number: u64,
    pub(super) caller: Arc<Caller>,
    /// The caller was not there until now: it is another command, or the same one again.
    pub(super) is_new: bool,
}

impl Callers {
    pub(super) fn new(transfers: Arc<Transfers>) -> Self {
        Self {
            transfers,
            known: Mutex::default(),
        }
    }

    /// One more connection of the caller with that number.
    pub(super) fn enter(self: &Arc<Self>, number: u64) -> Present {
        let mut known = self.known.lock();
        let new = || Known {
            caller: Arc::new(self.transfers.caller()),
            connections: 0,
            left: Instant::now(),
        };
        let entry = known.entry(number).or_insert_with(new);
        let is_new = entry.connections == 0;
        entry.connections += 1;
        Present {
            callers: self.clone(),
            number,
            caller: entry.caller.clone(),
            is_new,
        }
    }

    /// How many connections there are, and of how many callers.
    pub(super) fn count(&self) -> (usize, usize) {
        let known = self.known.lock();
        let connections = known.values().map(|known| known.connections);
        let present = known.values().filter(|known| known.connections > 0);
        (connections.sum(), present.count())
    }

    /// Forgets those that have gone, and what was read ahead for those that fetch nothing. To be
    /// called now and then.
    pub(super) fn tidy(&self) {
        let mut gone = Vec::new();
        let mut known = self.known.lock();
        known.retain(|_, known| {
            let stays = known.connections > 0 || known.left.elapsed() < GRACE;
            if stays {
                known.caller.pause_if_idle();
            } else {
                gone.push(known.caller.clone());
            }
            stays
        });
        // Their readahead is taken down without the lock.
        drop(known);
        drop(gone);
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(known) = self.callers.known.lock().get_mut(&self.number) {
            known.connections -= 1;
            known.left = Instant::now();
        }
    }
}
