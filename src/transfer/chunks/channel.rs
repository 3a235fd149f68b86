//! One channel: a shell on one host, or a serve loop of our program there, that brings chunks, confirms those of others and indexes files.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::chunked_nar::ChunkedNar;
use super::scheduler::{NextAction, Scheduler};
use super::window::ChannelId;
use crate::pool::{HostId, ShellLease};
use crate::remote::{ReceivedSegment, RemoteError, RemoteErrorKind, is_incompressible};
use crate::transfer::hosts::{OutstandingBytes, Way};

/// How many requests a channel may have outstanding: one on its way, one to follow without a pause.
const MAX_OUTSTANDING: usize = 2;

/// How often a channel without work checks whether another one is late.
const LATE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a channel without work is kept, since the next NAR may come soon.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the progress of a chunk is reported while it comes.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Registers a channel as long as it lives. When it is dropped, what the channel has outstanding is requested elsewhere.
struct ChannelGuard {
    scheduler: Arc<Scheduler>,
    host: HostId,
    channel: ChannelId,
    /// It is opened although the host rests after a failure.
    ignore_backoff: bool,
    /// It ends because there is nothing to request.
    idle: AtomicBool,
    /// It failed at work before it had brought anything.
    useless: AtomicBool,
}

impl Drop for ChannelGuard {
    fn drop(&mut self) {
        let failed = !*self.idle.get_mut();
        let useless = *self.useless.get_mut();
        self.scheduler
            .release(self.host, self.channel, failed, useless);
    }
}

/// Starts to bring a NAR from its hosts.
pub(super) fn start(scheduler: &Arc<Scheduler>, nar: &Arc<ChunkedNar>) {
    scheduler.add(nar);
    for host in nar.hosts() {
        spawn_channels(scheduler, host, nar.ignore_backoff);
    }
    scheduler.wake();
}

/// More hosts are found to have the NAR.
pub(super) fn add_hosts(scheduler: &Arc<Scheduler>, nar: &ChunkedNar, hosts: Vec<HostId>) {
    for host in nar.add_hosts(hosts) {
        spawn_channels(scheduler, host, false);
        scheduler.wake();
    }
}

/// Opens channels again for a NAR of which something may be requested now. They end when there is nothing to request, for
/// example because the caller is slow; and a host that failed may be back. With `ignore_backoff`, hosts that rest after a
/// failure get some too.
pub(super) fn reopen_channels(scheduler: &Arc<Scheduler>, nar: &ChunkedNar, ignore_backoff: bool) {
    for host in nar.could_ask() {
        let usable = ignore_backoff || scheduler.bookkeeping.pool.is_healthy(host);
        if usable
            && !scheduler.has_channels(host)
            && scheduler.may_bring_chunks(host, &nar.info.path)
        {
            spawn_channels(scheduler, host, ignore_backoff);
        }
    }
}

/// Opens as many channels to a host as are of use.
fn spawn_channels(scheduler: &Arc<Scheduler>, host: HostId, ignore_backoff: bool) {
    while let Some(channel) = scheduler.register_channel(host) {
        scheduler.spawn(run(ChannelGuard {
            scheduler: scheduler.clone(),
            host,
            channel,
            ignore_backoff,
            idle: AtomicBool::new(false),
            useless: AtomicBool::new(false),
        }));
    }
}

/// Works on one channel until there is nothing to request, or it fails.
async fn run(guard: ChannelGuard) {
    let pool = &guard.scheduler.bookkeeping.pool;
    let shell = match guard.ignore_backoff {
        true => pool.shell_even_if_resting(guard.host).await,
        false => pool.shell(guard.host).await,
    };
    let Ok(Some(shell)) = shell else {
        return;
    };
    // The latency of the host may be known only now.
    if guard.scheduler.has_work_for(guard.host) {
        spawn_channels(&guard.scheduler, guard.host, guard.ignore_backoff);
    }
    let mut changes = guard.scheduler.changes();
    let mut worker = ChannelWorker {
        guard: &guard,
        shell,
        received_at: Instant::now(),
        outstanding: VecDeque::new(),
    };
    let mut idle = Instant::now();
    let mut is_useless = true;
    loop {
        changes.mark_seen();
        let result = match worker.ask().await {
            Ok(()) if worker.outstanding.is_empty() => {
                if idle.elapsed() > IDLE_TIMEOUT || worker.shell.has_waiters() {
                    guard.idle.store(true, Ordering::Relaxed);
                    return;
                }
                let _ = timeout(LATE_CHECK_INTERVAL, changes.changed()).await;
                continue;
            }
            Ok(()) => worker.receive().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            guard.useless.store(is_useless, Ordering::Relaxed);
            let bookkeeping = &guard.scheduler.bookkeeping;
            return bookkeeping.record_shell_failure(guard.host, error).await;
        }
        is_useless = false;
        idle = Instant::now();
    }
}

struct ChannelWorker<'a> {
    guard: &'a ChannelGuard,
    shell: ShellLease,
    /// When the last chunk had come.
    received_at: Instant,
    /// What was requested, in order.
    outstanding: VecDeque<(Arc<ChunkedNar>, Outstanding)>,
}

/// What was requested from a channel.
enum Outstanding {
    Chunk(OutstandingChunk),
    Compare(u64),
    Proof,
}

struct OutstandingChunk {
    chunk: u64,
    compressed: bool,
    bytes_due: OutstandingBytes,
    requested: Instant,
}

impl ChannelWorker<'_> {
    /// Requests as much as may be outstanding.
    async fn ask(&mut self) -> Result<(), RemoteError> {
        let (scheduler, host) = (&self.guard.scheduler, self.guard.host);
        while self.outstanding.len() < MAX_OUTSTANDING && !self.shell.has_waiters() {
            match scheduler.next_action(host, self.guard.channel, self.outstanding.is_empty()) {
                NextAction::Chunk(nar, chunk, segment) => {
                    let level = match self.shell.has_zstd() {
                        true => scheduler.compression_level(host, &nar, segment.len()),
                        false => None,
                    };
                    self.shell.request(&segment, level);
                    let bytes_due = scheduler
                        .bookkeeping
                        .throughput
                        .request(host, segment.len());
                    let chunk = OutstandingChunk {
                        chunk,
                        compressed: level.is_some(),
                        bytes_due,
                        requested: Instant::now(),
                    };
                    self.outstanding.push_back((nar, Outstanding::Chunk(chunk)));
                }
                NextAction::Compare(nar, chunk, segment) => {
                    self.shell.request_contents_digest(&segment);
                    self.outstanding
                        .push_back((nar, Outstanding::Compare(chunk)));
                }
                NextAction::Prove(nar, all) => {
                    self.shell.request_digest(&all);
                    self.outstanding.push_back((nar, Outstanding::Proof));
                }
                NextAction::Index(nar) => {
                    let began = Instant::now();
                    let file_index = self.shell.list(&nar.info.path).await;
                    let layout = file_index.as_ref().ok().and_then(Option::as_ref);
                    let reads_well = self.shell.reads_small_files_well();
                    let index = layout.cloned().map(|layout| (layout, reads_well));
                    scheduler.set_file_index(host, &nar, index, began.elapsed());
                    file_index?;
                }
                NextAction::None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Receives the reply that comes next.
    async fn receive(&mut self) -> Result<(), RemoteError> {
        let Some((nar, outstanding)) = self.outstanding.pop_front() else {
            return Ok(());
        };
        let received = self.receive_reply(&nar, outstanding).await;
        if let Err(error) = &received
            && matches!(error.kind, RemoteErrorKind::NotAsListed { .. })
        {
            // Its files have changed or gone: no further try on this host would bring another end.
            nar.exclude(self.guard.host);
        }
        received
    }

    async fn receive_reply(
        &mut self,
        nar: &ChunkedNar,
        outstanding: Outstanding,
    ) -> Result<(), RemoteError> {
        let channel = self.guard.channel;
        match outstanding {
            Outstanding::Chunk(chunk) => self.receive_chunk(nar, chunk).await?,
            Outstanding::Compare(chunk) => {
                let digest = self.shell.digest().await?;
                nar.compared(chunk, channel, digest);
                self.guard.scheduler.wake();
            }
            Outstanding::Proof => {
                let digest = self.shell.digest().await?;
                if let Some(got) = nar.set_whole_digest(channel.host, digest) {
                    self.guard
                        .scheduler
                        .record_mismatch(channel.host, &nar.info, got)
                        .await;
                }
                self.guard.scheduler.wake();
            }
        }
        Ok(())
    }

    /// Receives a chunk. Its progress is reported while it comes, since that takes seconds on a slow link.
    async fn receive_chunk(
        &mut self,
        nar: &ChunkedNar,
        outstanding: OutstandingChunk,
    ) -> Result<(), RemoteError> {
        let channel = self.guard.channel;
        let OutstandingChunk {
            chunk,
            compressed,
            mut bytes_due,
            requested,
        } = outstanding;
        let (meter, mut received) = (self.shell.meter(), 0);
        let activity = self.shell.activity();
        let mut progressed = |now: u64| {
            let more = now.saturating_sub(received);
            received = received.max(now);
            if more > 0 {
                activity.record_byte();
                bytes_due.on_received(more);
                nar.progressed(chunk, channel, now, more);
            }
        };
        let segment = self.shell.segment();
        tokio::pin!(segment);
        let began = self.received_at.max(requested);
        let ReceivedSegment { bytes, wire_len } = loop {
            match timeout(PROGRESS_INTERVAL, &mut segment).await {
                Ok(segment) => break segment?,
                Err(_) => progressed(meter.load(Ordering::Relaxed)),
            }
        };
        let len = bytes.len() as u64;
        progressed(len);
        self.received_at = Instant::now();
        let secs = (self.received_at - began).as_secs_f64();
        let choices = &self.guard.scheduler.bookkeeping.compression;
        choices.record(channel.host, compressed, len, secs);
        let (way, on_wire) = match compressed {
            true => (Way::Compressed, wire_len),
            false => (Way::Raw, len),
        };
        let traffic = &self.guard.scheduler.bookkeeping.traffic;
        traffic.record(channel.host, way, len, on_wire);
        if compressed {
            nar.set_compressible(!is_incompressible(len, wire_len));
        }
        nar.arrived(chunk, bytes, channel);
        // Another channel may have to compare it.
        self.guard.scheduler.wake();
        Ok(())
    }
}
