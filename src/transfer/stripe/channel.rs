//! Those who bring the parts: one shell on one host each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::nar::Nar;
use super::parts::Channel;
use super::shared::{Shared, Work};
use crate::pool::{HostId, ShellLease};
use crate::remote::RemoteError;
use crate::transfer::rates::Owed;

/// How many parts a channel is asked for ahead: one on its way, one to follow without a pause.
const AHEAD: usize = 2;

/// How often a channel without work looks whether another one is late.
const LOOK: Duration = Duration::from_millis(100);

/// How long a channel without work is kept, since the next NAR may come soon.
const IDLE: Duration = Duration::from_secs(1);

/// How often it is told how much of a part has come.
const TICK: Duration = Duration::from_millis(250);

/// A channel's place. When it is dropped, what the channel owes is for others.
pub(super) struct Seat {
    pub(super) shared: Arc<Shared>,
    pub(super) host: HostId,
    pub(super) channel: Channel,
    /// The host is asked although it rests.
    pub(super) nevertheless: bool,
    /// It ends of itself, since there is nothing to ask for.
    pub(super) idle: AtomicBool,
    /// It failed at work before it had brought anything.
    pub(super) useless: AtomicBool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let failed = !*self.idle.get_mut();
        let useless = *self.useless.get_mut();
        self.shared.leave(self.host, self.channel, failed, useless);
    }
}

/// Brings parts from one host until there are none, or it fails.
pub(super) async fn run(seat: Seat) {
    let pool = &seat.shared.book.pool;
    let shell = match seat.nevertheless {
        true => pool.shell_even_if_resting(seat.host).await,
        false => pool.shell(seat.host).await,
    };
    let Ok(Some(shell)) = shell else {
        return;
    };
    // How far the host is may be known only now.
    if seat.shared.is_of_use(seat.host) {
        seat.shared.engage(seat.host, seat.nevertheless);
    }
    let mut changes = seat.shared.changes();
    let mut worker = Worker {
        seat: &seat,
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
                    seat.idle.store(true, Ordering::Relaxed);
                    return;
                }
                let _ = timeout(LOOK, changes.changed()).await;
                continue;
            }
            Ok(()) => worker.receive().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            seat.useless.store(is_useless, Ordering::Relaxed);
            return blame(&seat, error).await;
        }
        is_useless = false;
        idle = Instant::now();
    }
}

struct Worker<'a> {
    seat: &'a Seat,
    shell: ShellLease,
    /// What is asked for, in order.
    owed: VecDeque<(Arc<Nar>, Asked)>,
}

/// What a channel was asked for.
enum Asked {
    Part(u64, Owed),
    Compare(u64),
    Proof,
}

impl Worker<'_> {
    /// Asks for as much as may be asked for ahead.
    async fn ask(&mut self) -> Result<(), RemoteError> {
        let (shared, host) = (&self.seat.shared, self.seat.host);
        while self.owed.len() < AHEAD && !self.shell.has_waiters() {
            match shared.work_for(host, self.seat.channel, self.owed.is_empty()) {
                Work::Part(nar, part, segment) => {
                    self.shell.request(&segment);
                    let due = shared.book.rates.ask(host, segment.len());
                    self.owed.push_back((nar, Asked::Part(part, due)));
                }
                Work::Compare(nar, part, segment) => {
                    self.shell.request_contents_digest(&segment);
                    self.owed.push_back((nar, Asked::Compare(part)));
                }
                Work::Prove(nar, all) => {
                    self.shell.request_digest(&all);
                    self.owed.push_back((nar, Asked::Proof));
                }
                Work::List(nar) => {
                    let began = Instant::now();
                    let listing = self.shell.list(&nar.info.path).await;
                    let layout = listing.as_ref().ok().and_then(Option::as_ref);
                    shared.listed(host, &nar, layout.cloned(), began.elapsed());
                    listing?;
                }
                Work::None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Receives what was asked for first.
    async fn receive(&mut self) -> Result<(), RemoteError> {
        let channel = self.seat.channel;
        match self.owed.pop_front() {
            None => {}
            Some((nar, Asked::Part(part, due))) => self.receive_part(&nar, part, due).await?,
            Some((nar, Asked::Compare(part))) => {
                let digest = self.shell.digest().await?;
                nar.compared(part, channel, digest);
                self.seat.shared.wake();
            }
            Some((nar, Asked::Proof)) => {
                let digest = self.shell.digest().await?;
                if let Some(got) = nar.proved(channel.host, digest) {
                    self.seat
                        .shared
                        .has_another(channel.host, &nar.info, got)
                        .await;
                }
                self.seat.shared.wake();
            }
        }
        Ok(())
    }

    /// Receives a part. Who waits for it is told while it comes, since that takes seconds on a slow link.
    async fn receive_part(
        &mut self,
        nar: &Nar,
        part: u64,
        mut due: Owed,
    ) -> Result<(), RemoteError> {
        let channel = self.seat.channel;
        let (meter, mut received) = (self.shell.meter(), 0);
        let activity = self.shell.activity();
        let mut progressed = |now: u64| {
            let more = now.saturating_sub(received);
            received = received.max(now);
            if more > 0 {
                activity.record_byte();
                due.received(more);
                nar.progressed(part, channel, now, more);
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
        nar.arrived(part, bytes, channel);
        // Another channel may have to compare it.
        self.seat.shared.wake();
        Ok(())
    }
}

async fn blame(seat: &Seat, error: RemoteError) {
    let error = Arc::new(error);
    // A shell that ends, or files that change, say nothing about the serve loop.
    if matches!(
        *error,
        RemoteError::Disconnected { .. } | RemoteError::NotAsListed { .. }
    ) {
        log::debug!("{error}");
    } else {
        seat.shared
            .book
            .pool
            .record_failure(seat.host, &error)
            .await;
    }
}
