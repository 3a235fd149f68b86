//! What is being transferred, for everybody who asks.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::transfer::progress::{ByHost, Outcome, Progress, TransferInfo, TransferProgress};

/// All transfers that run, and what has run.
#[derive(Default)]
pub(super) struct Board {
    running: Mutex<BTreeMap<u64, Running>>,
    next: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

struct Running {
    info: TransferInfo,
    came: Arc<AtomicU64>,
    /// What of that came from whom, as far as it was counted.
    sums: ByHost,
    counted: u64,
    since: Instant,
}

impl Running {
    /// Counts what has come since for the host that it came from.
    fn count(&mut self) {
        let came = self.came.load(Ordering::Relaxed);
        match came.checked_sub(self.counted) {
            Some(more) => self.sums.advance(more),
            None => self.sums.lose(self.counted - came),
        }
        self.counted = came;
    }
}

impl Board {
    /// The transfers that run, in the order in which they began.
    pub(super) fn running(&self) -> Value {
        let mut running = self.running.lock();
        let shown = running.values_mut().map(|running| {
            running.count();
            let sums = running.sums.sums();
            json!({
                "path": running.info.path.as_str(),
                "host": running.info.host,
                "bytesByHost": sums.collect::<BTreeMap<_, _>>(),
                "bytes": running.came.load(Ordering::Relaxed),
                "narSize": running.info.total,
                "seconds": running.since.elapsed().as_secs_f64(),
            })
        });
        shown.collect()
    }

    /// What has been delivered so far.
    pub(super) fn delivered(&self) -> Value {
        json!({
            "paths": self.done.load(Ordering::Relaxed),
            "failed": self.failed.load(Ordering::Relaxed),
            "bytes": self.bytes.load(Ordering::Relaxed),
        })
    }
}

/// One connection's transfers: on the board, and the host for the client.
pub(super) struct Posted {
    pub(super) board: Arc<Board>,
    pub(super) host: Arc<Source>,
}

/// The host that the NAR on a connection comes from.
#[derive(Default)]
pub(super) struct Source(Mutex<Option<String>>);

impl Source {
    fn set(&self, host: &str) {
        *self.0.lock() = Some(host.to_owned());
    }

    /// The host, if it is another one than when this was called last.
    pub(super) fn news(&self) -> Option<String> {
        self.0.lock().take()
    }
}

impl Progress for Posted {
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress> {
        self.host.set(&transfer.host);
        let number = self.board.next.fetch_add(1, Ordering::Relaxed);
        let came = Arc::new(AtomicU64::new(0));
        let mut sums = ByHost::default();
        sums.set_host(&transfer.host);
        let running = Running {
            info: transfer.clone(),
            came: came.clone(),
            sums,
            counted: 0,
            since: Instant::now(),
        };
        self.board.running.lock().insert(number, running);
        Box::new(Post {
            board: self.board.clone(),
            host: self.host.clone(),
            number,
            came,
            done: false,
        })
    }
}

struct Post {
    board: Arc<Board>,
    host: Arc<Source>,
    number: u64,
    came: Arc<AtomicU64>,
    done: bool,
}

impl TransferProgress for Post {
    fn advance(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::Relaxed);
        self.board.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn set_host(&self, host: &str) {
        self.host.set(host);
        if let Some(running) = self.board.running.lock().get_mut(&self.number) {
            running.count();
            running.sums.set_host(host);
            host.clone_into(&mut running.info.host);
        }
    }

    fn lose(&self, bytes: u64) {
        self.came.fetch_sub(bytes, Ordering::Relaxed);
        self.board.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn finish(mut self: Box<Self>, outcome: Outcome) {
        self.done = outcome == Outcome::Done;
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.board.running.lock().remove(&self.number);
        let count = match self.done {
            true => &self.board.done,
            false => &self.board.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
