//! From which hosts paths came.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::transfer::progress::{Outcome, Progress, TransferInfo, TransferProgress};

/// Passes on to another progress what transfers tell, and notes the hosts.
pub(super) struct Watch {
    shown: Arc<dyn Progress>,
    hosts: Arc<Mutex<BTreeSet<String>>>,
}

impl Watch {
    pub(super) fn new(shown: Arc<dyn Progress>) -> Self {
        Self {
            shown,
            hosts: Arc::default(),
        }
    }

    /// Those that something came from, by name.
    pub(super) fn hosts(&self) -> Vec<String> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().cloned().collect()
    }
}

impl Progress for Watch {
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress> {
        Box::new(Watched {
            shown: self.shown.start(transfer),
            host: Mutex::new(Some(transfer.host.clone())),
            hosts: self.hosts.clone(),
        })
    }

    fn expected(&self, paths: u64, bytes: u64) {
        self.shown.expected(paths, bytes);
    }
}

struct Watched {
    shown: Box<dyn TransferProgress>,
    /// Where it comes from, until something has come from there.
    host: Mutex<Option<String>>,
    hosts: Arc<Mutex<BTreeSet<String>>>,
}

impl TransferProgress for Watched {
    fn advance(&self, bytes: u64) {
        let host = self
            .host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(host) = host {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.insert(host);
        }
        self.shown.advance(bytes);
    }

    fn set_host(&self, host: &str) {
        let mut current = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(host.to_owned());
        self.shown.set_host(host);
    }

    fn finish(self: Box<Self>, outcome: Outcome) {
        self.shown.finish(outcome);
    }
}
