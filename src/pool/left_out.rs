//! What hosts say and nobody can read: it costs the path that it is about, never the host.

use parking_lot::Mutex;
use std::collections::HashSet;

use super::host_pool::HostPool;
use crate::hint::Hint;
use crate::remote::Unreadable;

/// What a host tells of a path, or which path it tells of, cannot be read. No fault of the host: its Nix
/// may allow what others do not.
#[derive(Debug, thiserror::Error)]
#[error(
    "{host}: what it tells of {} cannot be read, so that this path is left out: {}",
    .entry.path, .entry.why
)]
pub struct LeftOut {
    /// The host.
    pub host: String,
    /// The path, and what cannot be read.
    pub entry: Unreadable,
}

impl Hint for LeftOut {
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The fields that users have been told of, so that each is told once.
#[derive(Default)]
pub(super) struct LeftOutTold(Mutex<HashSet<&'static str>>);

impl LeftOutTold {
    /// Tells the user of what could not be read, the first of each field.
    pub(super) fn tell(&self, host_pool: &HostPool, entries: Vec<Unreadable>) {
        for entry in entries {
            let first = self.0.lock().insert(entry.why.field);
            let host = host_pool.host.to_string();
            let left_out = LeftOut { host, entry };
            if first {
                (host_pool.notify)(&left_out);
            } else {
                log::debug!("{left_out}");
            }
        }
    }

    /// From now on somebody else is told too.
    pub(super) fn tell_again(&self) {
        self.0.lock().clear();
    }
}
