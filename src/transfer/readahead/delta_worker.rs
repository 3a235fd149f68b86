//! Workers for NARs that come as differences from what is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;

use super::queue::{AssignedTask, ReadaheadQueue};
use super::task::FeedOutcome;
use crate::pool::{HostId, ShellLease};
use crate::transfer::deltas::{Brought, ChosenBase, DeltaFault, DeltaFetch, Wanted};

/// How many NARs are asked for together, how many bytes they have before the last one is added, and how many files here
/// they are compared with.
const BATCH_NARS: usize = 16;
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_FILES: usize = 2000;

/// Decides which paths come so.
pub(super) async fn decide(queue: Arc<ReadaheadQueue>) {
    let mut changes = queue.subscribe();
    loop {
        changes.mark_seen();
        match queue.undecided() {
            Some((host, paths)) => {
                queue.deltas.decide(host, paths).await;
                queue.wake();
            }
            None => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Brings some after the others.
pub(super) async fn run(queue: Arc<ReadaheadQueue>) {
    let mut changes = queue.subscribe();
    loop {
        changes.mark_seen();
        match Batch::next(&queue, None) {
            Some(batch) => work(&queue, batch).await,
            None => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// NARs that are asked for together: each command costs the host some processes.
struct Batch {
    host: HostId,
    /// `None` for those that are done.
    tasks: Vec<Option<AssignedTask>>,
    wanted: Vec<Wanted>,
}

impl Batch {
    /// The next ones, all from `host`, unless that does not matter.
    fn next(queue: &Arc<ReadaheadQueue>, host: Option<HostId>) -> Option<Self> {
        let (first, base) = queue.next_delta_task(host)?;
        let host = base.host;
        let mut batch = Self {
            host,
            tasks: Vec::new(),
            wanted: Vec::new(),
        };
        let mut bytes = first.task.info.nar_size;
        let mut files = base.file_count();
        batch.push(first, base);
        while batch.tasks.len() < BATCH_NARS && bytes < BATCH_BYTES && files < BATCH_FILES {
            let Some((next, base)) = queue.next_delta_task(Some(host)) else {
                break;
            };
            let (first, info) = (&batch.wanted[0].0, &next.task.info);
            if first.path.store_dir() != info.path.store_dir() {
                queue.deltas.reject(&info.path);
                next.fail_blameless(true);
                continue;
            }
            bytes += info.nar_size;
            files += base.file_count();
            batch.push(next, base);
        }
        Some(batch)
    }

    fn push(&mut self, task: AssignedTask, base: Arc<ChosenBase>) {
        self.wanted.push((task.task.info.clone(), base));
        self.tasks.push(Some(task));
    }

    /// Asks for what is needed first.
    fn begin(mut self, queue: &ReadaheadQueue, shell: &mut ShellLease) -> Begun {
        let options = queue.deltas.options(self.host);
        let meter = Arc::new(AtomicU64::new(0));
        for assigned in self.tasks.iter().flatten() {
            assigned.task.set_chunk_meter(assigned.owner, &meter);
        }
        let fetch = DeltaFetch::start(shell, std::mem::take(&mut self.wanted), options);
        Begun {
            batch: self,
            fetch,
            meter,
            buf: BytesMut::new(),
            accounted: 0,
        }
    }

    /// Others may bring them.
    fn fail_all(&mut self) {
        for assigned in self.tasks.iter_mut().filter_map(Option::take) {
            assigned.fail_blameless(true);
        }
    }

    /// One of them comes in another way.
    async fn give_up(&mut self, queue: &ReadaheadQueue, nar: usize, fault: Option<DeltaFault>) {
        let Some(assigned) = self.tasks.get_mut(nar).and_then(Option::take) else {
            return;
        };
        let path = assigned.task.info.path.clone();
        queue.deltas.reject(&path);
        queue.deltas.record(self.host, &path, fault).await;
        assigned.fail_blameless(true);
    }

    /// What is to come next does; the rest may come so yet.
    async fn give_up_next(&mut self, queue: &ReadaheadQueue, fault: Option<DeltaFault>) {
        if let Some(next) = self.tasks.iter().position(Option::is_some) {
            self.give_up(queue, next, fault).await;
        }
        self.fail_all();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.fail_all();
    }
}

/// NARs that were begun.
struct Begun {
    batch: Batch,
    fetch: DeltaFetch,
    meter: Arc<AtomicU64>,
    /// What has come of one of them.
    buf: BytesMut,
    /// How many of the bytes that came over the link were counted.
    accounted: u64,
}

/// The channel cannot be used further.
struct ShellLost;

/// Brings NARs, and those that follow them from the same host, over one channel.
async fn work(queue: &Arc<ReadaheadQueue>, mut batch: Batch) {
    let host = batch.host;
    let mut shell = match queue.bookkeeping.pool.shell(host).await {
        Ok(Some(shell)) if shell.has_zstd() => shell,
        // Failures are reported by the pool.
        _ => {
            for wanted in &batch.wanted {
                queue.deltas.reject(&wanted.0.path);
            }
            return batch.fail_all();
        }
    };
    let mut next = Some(batch.begin(queue, &mut shell));
    while let Some(mut begun) = next.take() {
        match bring(queue, &mut shell, &mut begun).await {
            Ok(behind) => next = behind,
            Err(ShellLost) => return,
        }
        if next.is_none() && !shell.has_waiters() {
            let batch = Batch::next(queue, Some(host));
            next = batch.map(|batch| batch.begin(queue, &mut shell));
        }
    }
}

/// Brings NARs. When all of them is requested, the next ones are requested behind them, and returned.
async fn bring(
    queue: &Arc<ReadaheadQueue>,
    shell: &mut ShellLease,
    begun: &mut Begun,
) -> Result<Option<Begun>, ShellLost> {
    let (activity, host) = (shell.activity(), begun.batch.host);
    let mut next = None;
    loop {
        let before = begun.buf.len();
        let nar = match begun.fetch.more(shell, &mut begun.buf).await {
            Ok(Brought::Bytes(nar)) => nar,
            Ok(Brought::Refused(nar, fault)) => {
                begun.batch.give_up(queue, nar, Some(fault)).await;
                continue;
            }
            Ok(Brought::End) => {
                // None is left, as a rule.
                begun.batch.give_up_next(queue, None).await;
                return Ok(next);
            }
            Err(fault) => {
                begun.batch.give_up_next(queue, Some(fault)).await;
                return Err(ShellLost);
            }
        };
        let came = begun.buf.len().saturating_sub(before);
        begun.meter.fetch_add(came as u64, Ordering::Relaxed);
        activity.record_byte();
        begun.feed(queue, nar, host).await?;
        if next.is_none() && begun.fetch.has_requested_all() && !shell.has_waiters() {
            let batch = Batch::next(queue, Some(host));
            next = batch.map(|batch| batch.begin(queue, shell));
        }
    }
}

impl Begun {
    /// Gives a NAR what has come of it.
    async fn feed(
        &mut self,
        queue: &ReadaheadQueue,
        nar: usize,
        host: HostId,
    ) -> Result<(), ShellLost> {
        let Some(slot) = self.batch.tasks.get_mut(nar) else {
            return Err(ShellLost);
        };
        let Some(assigned) = slot else {
            // Nobody wants it any more.
            self.buf.clear();
            return Ok(());
        };
        match assigned.task.feed(assigned.owner, &mut self.buf, host) {
            Ok(FeedOutcome::More) => Ok(()),
            Ok(FeedOutcome::Complete) => {
                let (size, wire_len) = (assigned.task.info.nar_size, self.fetch.wire_len());
                queue
                    .deltas
                    .record_done(host, size, wire_len - self.accounted);
                self.accounted = wire_len;
                self.buf.clear();
                if let Some(assigned) = slot.take() {
                    assigned.finish();
                }
                Ok(())
            }
            Ok(FeedOutcome::NotOwner) => {
                self.buf.clear();
                if let Some(assigned) = slot.take() {
                    assigned.finish();
                }
                match self.batch.tasks.iter().any(Option::is_some) {
                    true => Ok(()),
                    false => Err(ShellLost),
                }
            }
            Ok(FeedOutcome::Wrong(_)) | Err(_) => {
                self.buf.clear();
                let fault = Some(DeltaFault::other_nar());
                self.batch.give_up(queue, nar, fault).await;
                Ok(())
            }
        }
    }
}
