//! One shell or serve loop of our program on one host, from which small NARs come in compressed runs. It does what `worker` does over a connection, as
//! long as that is of use.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::timeout;

use super::queue::{AssignedTask, ReadaheadQueue};
use super::task::FeedOutcome;
use crate::pool::{HostId, ShellLease};
use crate::remote::DumpsStep;
use crate::transfer::error::HostFault;
use crate::transfer::hosts::Way;
use crate::wire::nar::{Decoder, Event};
use crate::wire::serve::extension::MAX_NARS;

/// How many runs may be outstanding: one on its way, one to follow.
const MAX_RUNS: usize = 2;

/// How many bytes of NARs a run has, unless it is a single one: what is in it comes out when `zstd` has enough of it.
const RUN_BYTES: u64 = 2 << 20;

/// How often an idle worker checks whether another one has fallen behind.
pub(super) const STEAL_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// After so many failures in a row, NARs come by connections again.
const MAX_FAILURES: u32 = 2;

/// The connection, or the shell, cannot be used any more.
pub(super) struct ConnectionLost;

/// Works for `host` as long as its small NARs are to come compressed.
///
/// # Errors
/// When no shell can be had, or shells fail.
pub(super) async fn run(queue: &Arc<ReadaheadQueue>, host: HostId) -> Result<(), ConnectionLost> {
    let mut changes = queue.subscribe();
    let mut worker = CompressedWorker {
        queue,
        host,
        runs: VecDeque::new(),
        shell: None,
        buf: BytesMut::new(),
        received: Arc::default(),
        is_abandoned: false,
    };
    let mut failures = 0;
    while queue.bookkeeping.compresses_dumps(host) {
        changes.mark_seen();
        worker.request_more().await?;
        if worker.runs.is_empty() {
            // Others may need the channel more.
            worker.shell = None;
            let _ = timeout(STEAL_CHECK_INTERVAL, changes.changed()).await;
            continue;
        }
        match worker.receive_run().await {
            Ok(()) => failures = 0,
            Err(ConnectionLost) => {
                for assigned in worker.runs.drain(..).flatten() {
                    assigned.fail_blameless(true);
                }
                worker.shell = None;
                // Belongs to the run that broke off.
                worker.buf.clear();
                failures += u32::from(!std::mem::take(&mut worker.is_abandoned));
                if failures == MAX_FAILURES {
                    queue.bookkeeping.compression.record_dumps_fail(host);
                    return Err(ConnectionLost);
                }
            }
        }
    }
    Ok(())
}

/// Tasks whose NARs come as one frame, in order.
type Run = VecDeque<AssignedTask>;

struct CompressedWorker<'a> {
    queue: &'a Arc<ReadaheadQueue>,
    host: HostId,
    runs: VecDeque<Run>,
    shell: Option<ShellLease>,
    /// What has come of the first run and belongs to no NAR yet.
    buf: BytesMut,
    /// Bytes that have come.
    received: Arc<AtomicU64>,
    /// The run was broken off here: nobody wants the NAR that comes.
    is_abandoned: bool,
}

impl CompressedWorker<'_> {
    /// Requests as much as may be outstanding.
    async fn request_more(&mut self) -> Result<(), ConnectionLost> {
        while self.runs.len() < MAX_RUNS {
            let has_waiters = self.shell.as_ref().is_some_and(|shell| shell.has_waiters());
            if has_waiters && !self.runs.is_empty() {
                return Ok(());
            }
            // Before anything is taken: it may take long, or there may be none.
            if self.shell.is_none() {
                if self.queue.bytes_waiting_for(self.host) == 0 {
                    return Ok(());
                }
                self.open().await?;
            }
            let run = self.next_run();
            if run.is_empty() {
                return Ok(());
            }
            self.request(run)?;
        }
        Ok(())
    }

    /// The tasks of one run, as far as there are any.
    fn next_run(&self) -> Run {
        let mut run = Run::new();
        let outstanding = self.runs.iter().flatten();
        let mut bytes: u64 = outstanding.map(|task| task.task.info.nar_size).sum();
        let mut nars = self.runs.iter().map(Run::len).sum();
        let end = bytes + RUN_BYTES;
        while bytes < end && run.len() < MAX_NARS {
            let Some(assigned) = self.queue.next_task(self.host, nars, bytes) else {
                break;
            };
            assigned.task.set_meter(assigned.owner, &self.received);
            bytes += assigned.task.info.nar_size;
            nars += 1;
            run.push_back(assigned);
        }
        run
    }

    async fn open(&mut self) -> Result<(), ConnectionLost> {
        let bookkeeping = &self.queue.bookkeeping;
        // Failures are reported by the pool.
        match bookkeeping.pool.shell(self.host).await {
            Ok(Some(shell)) if shell.has_zstd() => self.shell = Some(shell),
            Ok(_) => {
                bookkeeping.compression.record_dumps_fail(self.host);
                return Err(ConnectionLost);
            }
            Err(_) => return Err(ConnectionLost),
        }
        Ok(())
    }

    fn request(&mut self, run: Run) -> Result<(), ConnectionLost> {
        let pool = &self.queue.bookkeeping.pool;
        let shell = self.shell.as_mut().ok_or(ConnectionLost)?;
        let infos = run.iter().map(|assigned| &assigned.task.info);
        let len = infos.clone().map(|info| info.nar_size).sum();
        let paths: Vec<_> = infos.map(|info| info.path.clone()).collect();
        let host = pool.host(self.host);
        shell.request_dumps(host, &paths, len, host.compression.level);
        self.runs.push_back(run);
        Ok(())
    }

    /// Receives the NARs of the run that was requested first.
    async fn receive_run(&mut self) -> Result<(), ConnectionLost> {
        while let Some(assigned) = self.runs.front_mut().and_then(Run::pop_front) {
            self.receive(assigned).await?;
        }
        self.runs.pop_front();
        // What is behind the last NAR is the end.
        match self.more().await? {
            DumpsStep::End if self.buf.is_empty() => Ok(()),
            _ => Err(ConnectionLost),
        }
    }

    /// Brings more into the buffer.
    async fn more(&mut self) -> Result<DumpsStep, ConnectionLost> {
        let shell = self.shell.as_mut().ok_or(ConnectionLost)?;
        let activity = shell.activity();
        let before = self.buf.len();
        match shell.dumps(&mut self.buf).await {
            Ok(step) => {
                activity.record_byte();
                let came = (self.buf.len() - before) as u64;
                self.received.fetch_add(came, Ordering::Relaxed);
                if let DumpsStep::More { wire_len } = step {
                    let traffic = &self.queue.bookkeeping.traffic;
                    traffic.record(self.host, Way::Compressed, came, wire_len);
                }
                Ok(step)
            }
            Err(error) => {
                let bookkeeping = &self.queue.bookkeeping;
                bookkeeping.record_shell_failure(self.host, error).await;
                Err(ConnectionLost)
            }
        }
    }

    async fn receive(&mut self, mut assigned: AssignedTask) -> Result<(), ConnectionLost> {
        let task = assigned.task.clone();
        if !task.begin(assigned.owner) {
            // Somebody else brings it by now.
            self.skip(&assigned).await?;
            assigned.finish();
            return Ok(());
        }
        loop {
            let before = self.buf.len();
            let fed = task.feed(assigned.owner, &mut self.buf, self.host);
            assigned.received((before - self.buf.len()) as u64);
            let (fault, outcome) = match fed {
                Ok(FeedOutcome::Complete) => {
                    assigned.finish();
                    return Ok(());
                }
                Ok(FeedOutcome::More) => match self.more().await {
                    Ok(DumpsStep::More { .. }) => continue,
                    Err(ConnectionLost) => {
                        assigned.fail_blameless(true);
                        return Err(ConnectionLost);
                    }
                    Ok(DumpsStep::End) => {
                        // The store there has no more of it: whoever asks for it alone learns why.
                        log::debug!("{} ended early", task.info.path);
                        assigned.fail_blameless(false);
                        return Err(ConnectionLost);
                    }
                },
                Ok(FeedOutcome::NotOwner) => {
                    self.is_abandoned = true;
                    return Err(ConnectionLost);
                }
                Ok(FeedOutcome::Wrong(fault)) => (fault, Ok(())),
                Err(fault) => (fault, Err(ConnectionLost)),
            };
            let bookkeeping = &self.queue.bookkeeping;
            let path = task.info.path.clone();
            let host = bookkeeping.pool.host(self.host).to_string();
            let fault = HostFault::Path { host, path, fault };
            bookkeeping
                .record_failure(self.host, &task.info.path, &fault)
                .await;
            assigned.fail(true);
            return outcome;
        }
    }

    async fn skip(&mut self, assigned: &AssignedTask) -> Result<(), ConnectionLost> {
        let mut decoder = Decoder::new(assigned.task.info.nar_size);
        while !read_over(&mut decoder, &mut self.buf)? {
            if self.more().await? == DumpsStep::End {
                return Err(ConnectionLost);
            }
        }
        Ok(())
    }
}

/// Takes from the front of `buf` what it holds of a NAR that nobody needs. Whether that was the end of it.
pub(super) fn read_over(decoder: &mut Decoder, buf: &mut BytesMut) -> Result<bool, ConnectionLost> {
    loop {
        let (read, event) = decoder.step(buf).map_err(|_| ConnectionLost)?;
        let (has_event, is_end) = (event.is_some(), event == Some(Event::End));
        buf.advance(read);
        if is_end || !has_event {
            return Ok(is_end);
        }
    }
}
