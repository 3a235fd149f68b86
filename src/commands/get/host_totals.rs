//! Counts how much came from which host.

use parking_lot::Mutex;
use std::sync::Arc;

use crate::progress::{by_host, text};
use crate::transfer::progress::{ByHost, Outcome, Progress, TransferInfo, TransferProgress};

/// A progress that counts bytes by host, and passes all on to another one.
pub(super) struct HostTotals {
    shown: Arc<dyn Progress>,
    /// Of the transfers that have ended.
    sums: Arc<Mutex<ByHost>>,
}

impl HostTotals {
    pub(super) fn new(shown: Arc<dyn Progress>) -> Self {
        Self {
            shown,
            sums: Arc::default(),
        }
    }

    /// The host that something came from, or all of them with how much came from each.
    pub(super) fn hosts(&self) -> String {
        by_host(&self.sums.lock())
    }
}

impl Progress for HostTotals {
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress> {
        let mut own = ByHost::default();
        own.set_host(&transfer.host);
        Box::new(CountedTransfer {
            shown: self.shown.start(transfer),
            transfer: transfer.clone(),
            own: Mutex::new(own),
            sums: self.sums.clone(),
        })
    }

    fn expected(&self, paths: u64, bytes: u64) {
        self.shown.expected(paths, bytes);
    }
}

struct CountedTransfer {
    shown: Box<dyn TransferProgress>,
    transfer: TransferInfo,
    own: Mutex<ByHost>,
    sums: Arc<Mutex<ByHost>>,
}

impl TransferProgress for CountedTransfer {
    fn advance(&self, bytes: u64) {
        self.own.lock().advance(bytes);
        self.shown.advance(bytes);
    }

    fn set_host(&self, host: &str) {
        self.own.lock().set_host(host);
        self.shown.set_host(host);
    }

    fn goes_on_from(&self, bytes: u64) {
        let TransferInfo { path, total, .. } = &self.transfer;
        let part = text::part(bytes, *total);
        log::info!("{path} goes on from {part}, which an interrupted command has received");
    }

    fn lose(&self, bytes: u64) {
        self.own.lock().lose(bytes);
        self.shown.lose(bytes);
    }

    fn finish(self: Box<Self>, outcome: Outcome) {
        self.sums.lock().add(&self.own.lock());
        self.shown.finish(outcome);
    }
}
