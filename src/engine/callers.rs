//! The callers: clients that belong together are one caller, with one readahead. Front ends do that were started by the same
//! process, connections over HTTP that come from the same address.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::transfer::{Caller, Transfers};

/// How long a caller without connections is remembered: Nix 1.x starts a process for each path.
const KEEP_WITHOUT_CONNECTION: Duration = Duration::from_secs(30);

/// All callers, by what they have in common.
pub struct Callers<K: Clone + Eq + Hash> {
    transfers: Arc<Transfers>,
    entries: Mutex<HashMap<K, Entry>>,
}

struct Entry {
    caller: Arc<Caller>,
    connections: usize,
    /// When the last of them ended.
    last_closed: Instant,
}

/// One connection of a caller, which ends when this is dropped.
pub struct CallerConnection<K: Clone + Eq + Hash> {
    callers: Arc<Callers<K>>,
    id: K,
    /// The caller.
    pub caller: Arc<Caller>,
    /// The caller had no connection before: this is another command, or the same one again.
    pub is_new: bool,
}

impl<K: Clone + Eq + Hash> Callers<K> {
    /// Callers of what `transfers` fetch; none yet.
    #[must_use]
    pub fn new(transfers: Arc<Transfers>) -> Self {
        Self {
            transfers,
            entries: Mutex::default(),
        }
    }

    /// Adds a connection of the caller `id`.
    #[must_use]
    pub fn connect(self: &Arc<Self>, id: K) -> CallerConnection<K> {
        let mut entries = self.entries.lock();
        let new = || Entry {
            caller: Arc::new(self.transfers.caller()),
            connections: 0,
            last_closed: Instant::now(),
        };
        let entry = entries.entry(id.clone()).or_insert_with(new);
        let is_new = entry.connections == 0;
        entry.connections += 1;
        CallerConnection {
            callers: self.clone(),
            id,
            caller: entry.caller.clone(),
            is_new,
        }
    }

    /// How many connections there are, and of how many callers.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let entries = self.entries.lock();
        let connections = entries.values().map(|entry| entry.connections);
        let present = entries.values().filter(|entry| entry.connections > 0);
        (connections.sum(), present.count())
    }

    /// Removes callers that have gone, and drops what was read ahead for those that fetch nothing. To be called
    /// periodically.
    pub fn remove_gone(&self) {
        let mut gone = Vec::new();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| {
            let stays =
                entry.connections > 0 || entry.last_closed.elapsed() < KEEP_WITHOUT_CONNECTION;
            if stays {
                entry.caller.pause_if_idle();
            } else {
                gone.push(entry.caller.clone());
            }
            stays
        });
        // Dropping their readahead takes a while: not under the lock.
        drop(entries);
        drop(gone);
    }
}

impl<K: Clone + Eq + Hash> Drop for CallerConnection<K> {
    fn drop(&mut self) {
        if let Some(entry) = self.callers.entries.lock().get_mut(&self.id) {
            entry.connections -= 1;
            entry.last_closed = Instant::now();
        }
    }
}
