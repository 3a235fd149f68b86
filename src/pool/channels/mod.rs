//! Permits for channels to one host: how many there may be, and who gets one.

mod permits;

use parking_lot::Mutex;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::backoff::exponential;
use crate::config::host::Host;
use permits::{Permit, Permits};

/// How long a host that refused a channel is not asked for more than it gave. Doubled with each
/// further refusal.
const FIRST_REFUSAL_PAUSE: Duration = Duration::from_secs(30);

/// The longest such pause.
const LONGEST_REFUSAL_PAUSE: Duration = Duration::from_secs(600);

/// How many channels the host's configuration allows.
fn configured(host: &Host) -> usize {
    host.max_connections.max(1) as usize
}

/// How many of `limit` channels work in the background may take: all except one, at least one.
fn background_share(limit: usize) -> usize {
    limit.saturating_sub(1).max(1)
}

/// The right to one channel. Work in the background needs a second permit.
pub(super) struct ChannelPermit {
    _background: Option<Permit>,
    _permit: Permit,
    channels: Arc<ChannelPermits>,
}

impl Drop for ChannelPermit {
    fn drop(&mut self) {
        *self.channels.last_release.lock() = Instant::now();
    }
}

/// All permits for one host.
pub(super) struct ChannelPermits {
    configured: usize,
    all: Arc<Permits>,
    /// Work in the background takes one of these first. There are fewer, so that a question never waits
    /// behind such work.
    background: Arc<Permits>,
    /// Held permits whose channel is not open yet.
    opening: AtomicUsize,
    /// Callers that wait for a permit, except for work in the background.
    waiting: AtomicUsize,
    /// Held permits whose client does not take what the channel brings.
    blocked_on_client: AtomicUsize,
    refusals: Mutex<Refusals>,
    last_release: Mutex<Instant>,
    last_byte: Mutex<Instant>,
}

/// How often the host has refused a channel.
#[derive(Debug, Default)]
struct Refusals {
    times: u32,
    /// Until when it is asked for no more channels than it gave.
    until: Option<Instant>,
}

/// Counts one more as long as it lives.
pub(super) struct CountGuard<'a>(&'a AtomicUsize);

impl<'a> CountGuard<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for CountGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ChannelPermits {
    pub(super) fn new(host: &Host) -> Arc<Self> {
        let configured = configured(host);
        Arc::new(Self {
            configured,
            all: Permits::new(configured),
            background: Permits::new(background_share(configured)),
            opening: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            blocked_on_client: AtomicUsize::new(0),
            refusals: Mutex::default(),
            last_release: Mutex::new(Instant::now()),
            last_byte: Mutex::new(Instant::now()),
        })
    }

    /// Waits for a permit. Gives up once, for `limit`, no permit came back, no byte came on any channel, none
    /// was being opened, and none was blocked by its client: a blocked one gives way (see
    /// [`Lease::until_needed`](super::Lease::until_needed)).
    ///
    /// # Errors
    /// How long it waited in vain.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        in_background: bool,
        limit: Duration,
    ) -> Result<ChannelPermit, Duration> {
        self.recover();
        let began = Instant::now();
        let _waiting = (!in_background).then(|| CountGuard::new(&self.waiting));
        let mut both = pin!(async {
            let background = match in_background {
                true => Some(self.background.acquire().await),
                false => None,
            };
            (background, self.all.acquire().await)
        });
        loop {
            let until = began.max(self.last_movement()) + limit;
            match timeout_at(until, &mut both).await {
                Ok((background, permit)) => {
                    return Ok(ChannelPermit {
                        _background: background,
                        _permit: permit,
                        channels: self.clone(),
                    });
                }
                Err(_) if began.max(self.last_movement()) + limit > Instant::now() => {}
                Err(_) => return Err(began.elapsed()),
            }
        }
    }

    /// When there was last a sign that a permit may come back.
    fn last_movement(&self) -> Instant {
        // Both have time limits of their own.
        let [blocked_on_client, opening] =
            [&self.blocked_on_client, &self.opening].map(|all| all.load(Ordering::Relaxed));
        match blocked_on_client + opening {
            0 => (*self.last_release.lock()).max(*self.last_byte.lock()),
            _ => Instant::now(),
        }
    }

    /// Whether somebody waits for a permit, except for work in the background.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// To be held by the owner of a permit while its client does not take what the channel brings.
    pub(super) fn blocked_on_client(&self) -> CountGuard<'_> {
        CountGuard::new(&self.blocked_on_client)
    }

    /// Bytes came on one of the channels.
    pub(super) fn record_byte(&self) {
        *self.last_byte.lock() = Instant::now();
    }

    /// To be held by the owner of a permit until its channel is open.
    pub(super) fn opening(&self) -> CountGuard<'_> {
        CountGuard::new(&self.opening)
    }

    /// The host refused a channel to the owner of a permit. For a while there are only as many permits as
    /// channels are open, or one fewer where all of them are still being opened. Whether any is left to wait
    /// for.
    pub(super) fn shrink(&self) -> bool {
        let used = self.used();
        let open = match used.saturating_sub(self.opening.load(Ordering::Relaxed)) {
            0 => used.saturating_sub(1),
            open => open,
        };
        if open == 0 {
            return false;
        }
        let mut refusals = self.refusals.lock();
        // Refusals that come together count as one.
        if refusals.until.is_none() {
            refusals.times = refusals.times.saturating_add(1);
            let pause = exponential(FIRST_REFUSAL_PAUSE, LONGEST_REFUSAL_PAUSE, refusals.times);
            refusals.until = Some(Instant::now() + pause);
        }
        drop(refusals);
        self.set(open.min(self.limit()));
        true
    }

    /// After the pause the host is asked for as many as configured again.
    fn recover(&self) {
        let mut refusals = self.refusals.lock();
        if refusals.until.is_some_and(|until| Instant::now() >= until) {
            refusals.until = None;
            drop(refusals);
            self.set(self.configured);
        }
    }

    fn set(&self, limit: usize) {
        self.all.set_limit(limit);
        self.background.set_limit(background_share(limit));
    }

    /// How many of them work in the background may have now.
    pub(super) fn background_limit(&self) -> usize {
        background_share(self.limit())
    }

    /// How many there may be now.
    pub(super) fn limit(&self) -> usize {
        self.all.limit()
    }

    /// How many are held.
    pub(super) fn used(&self) -> usize {
        self.all.used()
    }
}
