//! One connection to one host, on which NARs are asked for before the last one has come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Buf;
use tokio::time::timeout;

use super::queue::{AssignedTask, ReadaheadQueue};
use super::task::FeedOutcome;
use crate::model::PathInfo;
use crate::pool::{HostId, Lease};
use crate::transfer::error::HostFault;
use crate::transfer::source::plain::fault;
use crate::wire::nar::{Decoder, Event};

/// How often an idle worker looks whether another one has fallen behind.
const LOOK: Duration = Duration::from_millis(250);

/// How many bytes of NARs are at most read over when somebody else brings them by now: another connection costs some
/// round trips, and that costs bytes.
const READ_OVER_MAX: u64 = 256 << 10;

/// For how long they are at most read over: by then there is another connection.
const READ_OVER_FOR: Duration = Duration::from_millis(250);

/// Works for `host` until it fails.
pub(super) async fn run(queue: Arc<ReadaheadQueue>, host: HostId) {
    let _registration = WorkerRegistration(queue.clone(), host);
    let mut changes = queue.subscribe();
    let mut worker = Worker {
        queue,
        host,
        pending: VecDeque::new(),
        lease: None,
        refused: false,
        received: Arc::default(),
    };
    loop {
        changes.mark_seen();
        if worker.pending.is_empty() && worker.is_waited_for() {
            worker.lease = None;
        }
        worker.fill();
        if worker.pending.is_empty() {
            // Others may need it more.
            worker.lease = None;
            let _ = timeout(LOOK, changes.changed()).await;
        } else if worker.work().await.is_err() && worker.is_no_use() {
            return;
        }
    }
}

struct WorkerRegistration(Arc<ReadaheadQueue>, HostId);

impl Drop for WorkerRegistration {
    fn drop(&mut self) {
        self.0.unregister_worker(self.1);
    }
}

/// The connection is of no use any more.
struct Broken;

struct Worker {
    queue: Arc<ReadaheadQueue>,
    host: HostId,
    /// What is asked for, in order.
    pending: VecDeque<AssignedTask>,
    lease: Option<Lease>,
    /// No connection could be had.
    refused: bool,
    /// Bytes that have come.
    received: Arc<AtomicU64>,
}

impl Worker {
    /// Another one may be set to work later.
    fn is_no_use(&self) -> bool {
        self.refused || !self.queue.book.pool.is_well(self.host)
    }

    /// Whether somebody waits for the connection whose business is more urgent.
    fn is_waited_for(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::has_waiters)
    }

    /// Takes on as much as may be asked for ahead.
    fn fill(&mut self) {
        while self.pending.is_empty() || !self.is_waited_for() {
            let bytes = self
                .pending
                .iter()
                .map(|assigned| assigned.task.info.nar_size);
            let (nars, bytes) = (self.pending.len(), bytes.sum());
            let Some(assigned) = self.queue.next_task(self.host, nars, bytes) else {
                return;
            };
            assigned.task.set_meter(assigned.owner, &self.received);
            if let Some(lease) = &mut self.lease {
                lease.start_dump(&assigned.task.info.path);
            }
            self.pending.push_back(assigned);
        }
    }

    /// Receives the NAR that was asked for first. After a failure nothing is pending.
    async fn work(&mut self) -> Result<(), Broken> {
        let result = match self.lease.take() {
            Some(lease) => self.receive(lease).await,
            None => match self.connect().await {
                Some(lease) => self.receive(lease).await,
                None => {
                    self.refused = true;
                    Err(Broken)
                }
            },
        };
        match result {
            Ok(lease) => {
                self.lease = Some(lease);
                Ok(())
            }
            Err(Broken) => {
                self.pending.clear();
                Err(Broken)
            }
        }
    }

    /// Bytes of those asked for next that somebody else brings by now.
    fn taken_over(&self) -> u64 {
        let others = self.pending.iter();
        let others = others.take_while(|assigned| !assigned.task.is_of(assigned.owner));
        others.map(|assigned| assigned.task.info.nar_size).sum()
    }

    /// How many bytes that somebody else brings are read over on this connection, before another one is made.
    fn most_read_over(&self) -> u64 {
        let rate = self.queue.book.rates.of(self.host);
        let bytes = rate.map(|rate| (rate as f64 * READ_OVER_FOR.as_secs_f64()) as u64);
        bytes.map_or(READ_OVER_MAX, |bytes| bytes.min(READ_OVER_MAX))
    }

    async fn connect(&mut self) -> Option<Lease> {
        let pool = &self.queue.book.pool;
        let mut paths = self.pending.iter().map(|assigned| &assigned.task.info.path);
        let first = paths.next()?;
        // A failure is told where it is noticed.
        let lease = pool.lease_in_background_for_dump(self.host, first).await;
        let mut lease = lease.ok()?;
        for path in paths {
            lease.start_dump(path);
        }
        Some(lease)
    }

    async fn receive(&mut self, mut lease: Lease) -> Result<Lease, Broken> {
        let Some(mut assigned) = self.pending.pop_front() else {
            return Ok(lease);
        };
        let task = assigned.task.clone();
        if !task.begin(assigned.owner) {
            if task.info.nar_size + self.taken_over() > self.most_read_over() {
                assigned.finish();
                return Err(Broken);
            }
            skip(&mut lease, &task.info).await?;
            assigned.finish();
            return Ok(lease);
        }
        let (host, path) = (lease.host().to_owned(), task.info.path.clone());
        let mut came = false;
        let fault = loop {
            if !lease.buffer().is_empty() {
                came = true;
                let before = lease.buffer().len();
                let fed = task.feed(assigned.owner, lease.buffer(), self.host);
                let got = (before - lease.buffer().len()) as u64;
                self.received.fetch_add(got, Ordering::Relaxed);
                assigned.received(got);
                match fed {
                    Ok(FeedOutcome::More) => {}
                    Ok(FeedOutcome::Complete) => {
                        lease.end_dump();
                        assigned.finish();
                        return Ok(lease);
                    }
                    Ok(FeedOutcome::Lost) => return Err(Broken),
                    Ok(FeedOutcome::Unfit(unfit)) => {
                        // It has come whole: what follows on the connection is in step.
                        lease.end_dump();
                        let fault = unfit.into_fault(host, path);
                        let book = &self.queue.book;
                        book.record_failure(self.host, &task.info.path, &fault)
                            .await;
                        assigned.fail(true);
                        return Ok(lease);
                    }
                    Err(refused) => break refused.into_fault(host, path),
                }
            }
            if let Err(error) = lease.nar_bytes().await {
                break fault(error, host, path);
            }
        };
        if matches!(fault, HostFault::Remote(_)) && lease.is_reused() && !came {
            // A used connection may have died while it lay idle.
            log::debug!("{fault}; trying once more");
            assigned.fail(false);
            return Err(Broken);
        }
        self.queue
            .book
            .record_failure(self.host, &task.info.path, &fault)
            .await;
        assigned.fail(true);
        Err(Broken)
    }
}

/// Reads over a NAR that somebody else brings by now.
async fn skip(lease: &mut Lease, info: &PathInfo) -> Result<(), Broken> {
    let mut decoder = Decoder::new(info.nar_size);
    loop {
        let buf = lease.buffer();
        loop {
            let (read, event) = decoder.step(buf).map_err(|_| Broken)?;
            let (more, end) = (event.is_some(), event == Some(Event::End));
            buf.advance(read);
            if end {
                lease.end_dump();
                return Ok(());
            }
            if !more {
                break;
            }
        }
        lease.nar_bytes().await.map_err(|_| Broken)?;
    }
}
