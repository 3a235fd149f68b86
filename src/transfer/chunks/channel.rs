//! Those who start_download the chunks: one shell on one host each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::chunked_nar::ChunkedNar;
use super::scheduler::{NextAction, Scheduler};
use super::window::ChannelId;
use crate::pool::{HostId, ShellLease};
use crate::remote::RemoteError;
use crate::transfer::hosts::OutstandingBytes;

/// How many chunks a channel is asked for ahead: one on its way, one to follow without a pause.
const AHEAD: usize = 2;

/// How often a channel without work looks whether another one is late.
const LOOK: Duration = Duration::from_millis(100);

/// How long a channel without work is kept, since the next NAR may come soon.
const IDLE: Duration = Duration::from_secs(1);

/// How often it is told how much of a chunk has come.
const TICK: Duration = Duration::from_millis(250);

/// A channel's place. When it is dropped, what the channel owes is for others.
pub(super) struct ChannelGuard {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) host: HostId,
    pub(super) channel: ChannelId,
    /// The host is asked although it rests.
    pub(super) ignore_backoff: bool,
    /// It ends of itself, since there is nothing to ask for.
    pub(super) idle: AtomicBool,
    /// It failed at work before it had brought anything.
    pub(super) useless: AtomicBool,
}

impl Drop for ChannelGuard {
    fn drop(&mut self) {
        let failed = !*self.idle.get_mut();
        let useless = *self.useless.get_mut();
        self.scheduler
            .release(self.host, self.channel, failed, useless);
    }
}

/// Brings chunks from one host until there are none, or it fails.
pub(super) async fn run(guard: ChannelGuard) {
    let pool = &guard.scheduler.book.pool;
    let shell = match guard.ignore_backoff {
        true => pool.shell_even_if_resting(guard.host).await,
        false => pool.shell(guard.host).await,
    };
    let Ok(Some(shell)) = shell else {
        return;
    };
    // How far the host is may be known only now.
    if guard.scheduler.is_of_use(guard.host) {
        guard
            .scheduler
            .spawn_channels(guard.host, guard.ignore_backoff);
    }
    let mut changes = guard.scheduler.changes();
    let mut worker = Worker {
        guard: &guard,
        shell,
        owed: VecDeque::new(),
    };
    let mut idle = Instant::now();
    let mut is_useless = true;
    loop {
        changes.mark_seen();
        let result = match worker.ask().await {
            Ok(()) if worker.owed.is_empty() => {
                if idle.elapsed() > IDLE || worker.shell.has_waiters() {
                    guard.idle.store(true, Ordering::Relaxed);
                    return;
                }
                let _ = timeout(LOOK, changes.changed()).await;
                continue;
            }
            Ok(()) => worker.receive().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            guard.useless.store(is_useless, Ordering::Relaxed);
            return blame(&guard, error).await;
        }
        is_useless = false;
        idle = Instant::now();
    }
}

struct Worker<'a> {
    guard: &'a ChannelGuard,
    shell: ShellLease,
    /// What is asked for, in order.
    owed: VecDeque<(Arc<ChunkedNar>, Asked)>,
}

/// What a channel was asked for.
enum Asked {
    Chunk(u64, OutstandingBytes),
    Compare(u64),
    Proof,
}

impl Worker<'_> {
    /// Asks for as much as may be asked for ahead.
    async fn ask(&mut self) -> Result<(), RemoteError> {
        let (scheduler, host) = (&self.guard.scheduler, self.guard.host);
        while self.owed.len() < AHEAD && !self.shell.has_waiters() {
            match scheduler.next_action(host, self.guard.channel, self.owed.is_empty()) {
                NextAction::Chunk(nar, chunk, segment) => {
                    self.shell.request(&segment);
                    let due = scheduler.book.rates.ask(host, segment.len());
                    self.owed.push_back((nar, Asked::Chunk(chunk, due)));
                }
                NextAction::Compare(nar, chunk, segment) => {
                    self.shell.request_contents_digest(&segment);
                    self.owed.push_back((nar, Asked::Compare(chunk)));
                }
                NextAction::Prove(nar, all) => {
                    self.shell.request_digest(&all);
                    self.owed.push_back((nar, Asked::Proof));
                }
                NextAction::Index(nar) => {
                    let began = Instant::now();
                    let file_index = self.shell.list(&nar.info.path).await;
                    let layout = file_index.as_ref().ok().and_then(Option::as_ref);
                    scheduler.set_file_index(host, &nar, layout.cloned(), began.elapsed());
                    file_index?;
                }
                NextAction::None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Receives what was asked for first.
    async fn receive(&mut self) -> Result<(), RemoteError> {
        let channel = self.guard.channel;
        match self.owed.pop_front() {
            None => {}
            Some((nar, Asked::Chunk(chunk, due))) => self.receive_part(&nar, chunk, due).await?,
            Some((nar, Asked::Compare(chunk))) => {
                let digest = self.shell.digest().await?;
                nar.compared(chunk, channel, digest);
                self.guard.scheduler.wake();
            }
            Some((nar, Asked::Proof)) => {
                let digest = self.shell.digest().await?;
                if let Some(got) = nar.proved(channel.host, digest) {
                    self.guard
                        .scheduler
                        .has_another(channel.host, &nar.info, got)
                        .await;
                }
                self.guard.scheduler.wake();
            }
        }
        Ok(())
    }

    /// Receives a chunk. Who waits for it is told while it comes, since that takes seconds on a slow link.
    async fn receive_part(
        &mut self,
        nar: &ChunkedNar,
        chunk: u64,
        mut due: OutstandingBytes,
    ) -> Result<(), RemoteError> {
        let channel = self.guard.channel;
        let (meter, mut received) = (self.shell.meter(), 0);
        let activity = self.shell.activity();
        let mut progressed = |now: u64| {
            let more = now.saturating_sub(received);
            received = received.max(now);
            if more > 0 {
                activity.record_byte();
                due.received(more);
                nar.progressed(chunk, channel, now, more);
            }
        };
        let segment = self.shell.segment();
        tokio::pin!(segment);
        let bytes = loop {
            match timeout(TICK, &mut segment).await {
                Ok(bytes) => break bytes?,
                Err(_) => progressed(meter.load(Ordering::Relaxed)),
            }
        };
        progressed(bytes.len() as u64);
        nar.arrived(chunk, bytes, channel);
        // Another channel may have to compare it.
        self.guard.scheduler.wake();
        Ok(())
    }
}

async fn blame(guard: &ChannelGuard, error: RemoteError) {
    let error = Arc::new(error);
    // A shell that ends, or files that change, say nothing about the serve loop.
    if matches!(
        *error,
        RemoteError::Disconnected { .. } | RemoteError::NotAsListed { .. }
    ) {
        log::debug!("{error}");
    } else {
        guard
            .scheduler
            .book
            .pool
            .record_failure(guard.host, &error)
            .await;
    }
}
