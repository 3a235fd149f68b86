//! One connection to one host, on which NARs are requested before the last one has come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::compressed_worker::{self, ConnectionLost, STEAL_CHECK_INTERVAL, read_over};
use super::queue::{AssignedTask, ReadaheadQueue};
use super::task::{FeedOutcome, SMALL_NAR};
use crate::model::PathInfo;
use crate::pool::{HostId, Lease};
use crate::transfer::error::HostFault;
use crate::transfer::hosts::Way;
use crate::wire::nar::Decoder;

/// How often it is checked, while a large NAR comes, whether it should be left to others.
const LEAVE_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How many bytes of NARs are at most read over when somebody else brings them by now: another connection costs some
/// round trips, and that costs bytes.
const READ_OVER_MAX: u64 = 256 << 10;

/// For how long they are at most read over, wherever the host is.
const READ_OVER_FOR: Duration = Duration::from_millis(250);

/// How long a host takes to start a program, about.
const PROGRAM_START: Duration = Duration::from_millis(50);

/// How many round trips it takes until the first byte comes on a new connection.
const CONNECT_ROUND_TRIPS: u32 = 3;

/// Works for `host` until it fails.
pub(super) async fn run(queue: Arc<ReadaheadQueue>, host: HostId) {
    let _registration = WorkerRegistration(queue.clone(), host);
    let mut changes = queue.subscribe();
    let mut worker = Worker {
        queue,
        host,
        outstanding: VecDeque::new(),
        lease: None,
        refused: false,
        received: Arc::default(),
    };
    loop {
        changes.mark_seen();
        if worker.outstanding.is_empty() && worker.is_waited_for() {
            worker.lease = None;
        }
        if worker.outstanding.is_empty() && worker.queue.bookkeeping.compresses_dumps(host) {
            worker.lease = None;
            if compressed_worker::run(&worker.queue, host).await.is_err() && worker.should_stop() {
                return;
            }
            continue;
        }
        worker.request_more();
        if worker.outstanding.is_empty() {
            // Others may need the connection more.
            worker.lease = None;
            let _ = timeout(STEAL_CHECK_INTERVAL, changes.changed()).await;
        } else if worker.receive_next().await.is_err() && worker.should_stop() {
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

struct Worker {
    queue: Arc<ReadaheadQueue>,
    host: HostId,
    /// The tasks that were requested, in order.
    outstanding: VecDeque<AssignedTask>,
    lease: Option<Lease>,
    /// No connection could be had.
    refused: bool,
    /// Bytes that have come.
    received: Arc<AtomicU64>,
}

impl Worker {
    /// Whether it should end. Another one may be started later.
    fn should_stop(&self) -> bool {
        self.refused || !self.queue.bookkeeping.pool.is_healthy(self.host)
    }

    /// Whether somebody waits for the connection whose business is more urgent.
    fn is_waited_for(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::has_waiters)
    }

    /// Requests as much as may be outstanding.
    fn request_more(&mut self) {
        // What is outstanding comes first; the rest comes compressed.
        if self.queue.bookkeeping.compresses_dumps(self.host) {
            return;
        }
        while self.outstanding.is_empty() || !self.is_waited_for() {
            let bytes = self
                .outstanding
                .iter()
                .map(|assigned| assigned.task.info.nar_size);
            let (nars, bytes) = (self.outstanding.len(), bytes.sum());
            let Some(assigned) = self.queue.next_task(self.host, nars, bytes) else {
                return;
            };
            assigned.task.set_meter(assigned.owner, &self.received);
            if let Some(lease) = &mut self.lease {
                lease.start_dump(&assigned.task.info.path);
            }
            self.outstanding.push_back(assigned);
        }
    }

    /// Receives the NAR that was requested first. After a failure nothing is outstanding.
    async fn receive_next(&mut self) -> Result<(), ConnectionLost> {
        let result = match self.lease.take() {
            Some(lease) => self.receive(lease).await,
            None => match self.connect().await {
                Some(lease) => self.receive(lease).await,
                None => {
                    self.refused = true;
                    Err(ConnectionLost)
                }
            },
        };
        match result {
            Ok(lease) => {
                self.lease = Some(lease);
                Ok(())
            }
            Err(ConnectionLost) => {
                self.outstanding.clear();
                Err(ConnectionLost)
            }
        }
    }

    /// Bytes of those asked for next that somebody else brings by now.
    fn taken_over(&self) -> u64 {
        let others = self.outstanding.iter();
        let others = others.take_while(|assigned| !assigned.task.is_of(assigned.owner));
        others.map(|assigned| assigned.task.info.nar_size).sum()
    }

    /// How many bytes that somebody else brings are read over on this connection, before another one is made.
    fn most_read_over(&self) -> u64 {
        let bookkeeping = &self.queue.bookkeeping;
        let rate = bookkeeping.throughput.of(self.host);
        let round_trip = bookkeeping.pool.latency(self.host);
        rate.map_or(READ_OVER_MAX, |rate| most_read_over(rate, round_trip))
    }

    async fn connect(&mut self) -> Option<Lease> {
        let pool = &self.queue.bookkeeping.pool;
        let mut paths = self
            .outstanding
            .iter()
            .map(|assigned| &assigned.task.info.path);
        let first = paths.next()?;
        // Failures are reported by the pool.
        let lease = pool.lease_in_background(self.host, Some(first)).await;
        let mut lease = lease.ok()?;
        self.queue.bookkeeping.throughput.on_connected(self.host);
        for path in paths {
            lease.start_dump(path);
        }
        Some(lease)
    }

    async fn receive(&mut self, mut lease: Lease) -> Result<Lease, ConnectionLost> {
        let Some(mut assigned) = self.outstanding.pop_front() else {
            return Ok(lease);
        };
        let task = assigned.task.clone();
        if !task.begin(assigned.owner) {
            if task.info.nar_size + self.taken_over() > self.most_read_over() {
                assigned.finish();
                return Err(ConnectionLost);
            }
            skip(&mut lease, &task.info).await?;
            assigned.finish();
            return Ok(lease);
        }
        if task.open_file().await.is_err() {
            assigned.fail(false);
            return Err(ConnectionLost);
        }
        let (host, path) = (lease.host().to_owned(), task.info.path.clone());
        let (mut has_bytes, mut rest) = (false, task.info.nar_size);
        let mut checked_at = Instant::now();
        let fault = loop {
            if !lease.buffer().is_empty() {
                has_bytes = true;
                let before = lease.buffer().len();
                let fed = task.feed(assigned.owner, lease.buffer(), self.host);
                let got = (before - lease.buffer().len()) as u64;
                rest = rest.saturating_sub(got);
                self.received.fetch_add(got, Ordering::Relaxed);
                assigned.received(got);
                let traffic = &self.queue.bookkeeping.traffic;
                traffic.record(self.host, Way::Raw, got, got);
                match fed {
                    Ok(FeedOutcome::More) => {
                        if rest > SMALL_NAR && checked_at.elapsed() >= LEAVE_CHECK_INTERVAL {
                            checked_at = Instant::now();
                            let in_the_way =
                                lease.has_waiters() && assigned.is_in_the_way(self.host, rest);
                            if in_the_way || assigned.is_overtaken(self.host, rest) {
                                // It would be so again and again, and each time for nothing.
                                assigned.fail(in_the_way);
                                return Err(ConnectionLost);
                            }
                        }
                        if task.write_out().await.is_err() {
                            assigned.fail(false);
                            return Err(ConnectionLost);
                        }
                    }
                    Ok(FeedOutcome::Complete) => {
                        lease.end_dump();
                        // What cannot be written stays in memory: a few pieces.
                        let _ = task.write_out().await;
                        assigned.finish();
                        return Ok(lease);
                    }
                    Ok(FeedOutcome::NotOwner) => return Err(ConnectionLost),
                    Ok(FeedOutcome::Wrong(fault)) => {
                        // It has come whole: what follows on the connection is in step.
                        lease.end_dump();
                        let fault = HostFault::Path { host, path, fault };
                        let bookkeeping = &self.queue.bookkeeping;
                        bookkeeping
                            .record_failure(self.host, &task.info.path, &fault)
                            .await;
                        assigned.fail(true);
                        return Ok(lease);
                    }
                    Err(fault) => break HostFault::Path { host, path, fault },
                }
            }
            if let Err(error) = lease.nar_bytes().await {
                break HostFault::of_dump(error, host, path);
            }
        };
        if matches!(fault, HostFault::Remote(_)) && lease.is_reused() && !has_bytes {
            // A used connection may have died while it lay idle.
            log::debug!("{fault}; trying once more");
            assigned.fail(false);
            return Err(ConnectionLost);
        }
        self.queue
            .bookkeeping
            .record_failure(self.host, &task.info.path, &fault)
            .await;
        assigned.fail(true);
        Err(ConnectionLost)
    }
}

/// As many bytes as come at that `rate`, in bytes a second, before there is another connection.
fn most_read_over(rate: u64, round_trip: Option<Duration>) -> u64 {
    let connecting = round_trip.map(|round_trip| PROGRAM_START + CONNECT_ROUND_TRIPS * round_trip);
    let time = connecting.map_or(READ_OVER_FOR, |time| time.min(READ_OVER_FOR));
    let bytes = (rate as f64 * time.as_secs_f64()) as u64;
    bytes.min(READ_OVER_MAX)
}

/// Reads over a NAR that somebody else brings by now.
async fn skip(lease: &mut Lease, info: &PathInfo) -> Result<(), ConnectionLost> {
    let mut decoder = Decoder::new(info.nar_size);
    while !read_over(&mut decoder, lease.buffer())? {
        lease.nar_bytes().await.map_err(|_| ConnectionLost)?;
    }
    lease.end_dump();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_over_than_comes_before_there_is_another_connection() {
        let [near, far] = [1, 100].map(Duration::from_millis);
        assert_eq!(most_read_over(1_000_000, Some(near)), 53_000);
        assert_eq!(most_read_over(1_000_000, Some(far)), 250_000);
        assert_eq!(most_read_over(1_000_000, None), 250_000);
        assert_eq!(most_read_over(100_000_000, Some(near)), READ_OVER_MAX);
    }
}
