//! One connection to one host, on which NARs are asked for before the last one has come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Buf;
use tokio::time::timeout;

use super::desk::{Desk, Taken};
use super::job::Fed;
use crate::model::PathInfo;
use crate::pool::{HostId, Lease};
use crate::transfer::attempt::fault;
use crate::transfer::error::HostFault;
use crate::wire::nar::{Decoder, Event};

/// How often an idle worker looks whether another one has fallen behind.
const LOOK: Duration = Duration::from_millis(250);

/// The largest NAR, in bytes, that is read over when somebody else brings it by now: another connection
/// costs some round trips, and that costs bytes, most of them over a slow link.
const SKIPPED: u64 = 256 << 10;

/// Works for `host` until it fails.
pub(super) async fn run(desk: Arc<Desk>, host: HostId) {
    let _enlisted = Enlisted(desk.clone(), host);
    let mut changes = desk.subscribe();
    let mut worker = Worker {
        desk,
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

struct Enlisted(Arc<Desk>, HostId);

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.0.dismiss(self.1);
    }
}

/// The connection is of no use any more.
struct Broken;

struct Worker {
    desk: Arc<Desk>,
    host: HostId,
    /// What is asked for, in order.
    pending: VecDeque<Taken>,
    lease: Option<Lease>,
    /// No connection could be had.
    refused: bool,
    /// Bytes that have come.
    received: Arc<AtomicU64>,
}

impl Worker {
    /// Another one may be set to work later.
    fn is_no_use(&self) -> bool {
        self.refused || !self.desk.book.pool.is_well(self.host)
    }

    /// Whether somebody waits for the connection whose business is more urgent.
    fn is_waited_for(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::has_waiters)
    }

    /// Takes on as much as may be asked for ahead.
    fn fill(&mut self) {
        while self.pending.is_empty() || !self.is_waited_for() {
            let bytes = self.pending.iter().map(|taken| taken.job.info.nar_size);
            let (nars, bytes) = (self.pending.len(), bytes.sum());
            let Some(taken) = self.desk.pick(self.host, nars, bytes) else {
                return;
            };
            taken.job.set_meter(taken.token, &self.received);
            if let Some(lease) = &mut self.lease {
                lease.start_dump(&taken.job.info.path);
            }
            self.pending.push_back(taken);
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

    async fn connect(&mut self) -> Option<Lease> {
        let pool = &self.desk.book.pool;
        let mut paths = self.pending.iter().map(|taken| &taken.job.info.path);
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
        let Some(mut taken) = self.pending.pop_front() else {
            return Ok(lease);
        };
        let job = taken.job.clone();
        if !job.begin(taken.token) {
            if job.info.nar_size > SKIPPED {
                taken.finish();
                return Err(Broken);
            }
            skip(&mut lease, &job.info).await?;
            taken.finish();
            return Ok(lease);
        }
        let (host, path) = (lease.host().to_owned(), job.info.path.clone());
        let mut came = false;
        let fault = loop {
            if !lease.buffer().is_empty() {
                came = true;
                let before = lease.buffer().len();
                let fed = job.feed(taken.token, lease.buffer(), self.host);
                let got = (before - lease.buffer().len()) as u64;
                self.received.fetch_add(got, Ordering::Relaxed);
                taken.received(got);
                match fed {
                    Ok(Fed::More) => {}
                    Ok(Fed::Complete) => {
                        lease.end_dump();
                        taken.finish();
                        return Ok(lease);
                    }
                    Ok(Fed::Lost) => return Err(Broken),
                    Ok(Fed::Unfit(unfit)) => {
                        // It has come whole: what follows on the connection is in step.
                        lease.end_dump();
                        let fault = unfit.into_fault(host, path);
                        let book = &self.desk.book;
                        book.take_note(self.host, &job.info.path, &fault).await;
                        taken.fail(true);
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
            taken.fail(false);
            return Err(Broken);
        }
        self.desk
            .book
            .take_note(self.host, &job.info.path, &fault)
            .await;
        taken.fail(true);
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
