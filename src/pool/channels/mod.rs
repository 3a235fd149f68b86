//! How many channels to a host there may be, and who may have one.

mod permits;

use parking_lot::Mutex;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::host::Host;
use permits::{Permit, Permits};

/// How long a host that refused a channel is not asked for more than it gave; doubled with each
/// refusal that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How many there may be by the host's configuration.
pub(super) fn configured(host: &Host) -> usize {
    host.max_connections.max(1) as usize
}

/// How many of so many work in the background may take.
fn background_share(limit: usize) -> usize {
    limit.saturating_sub(1).max(1)
}

/// The right to a channel: that of everybody, and that of work in the background.
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

/// The places of one host.
pub(super) struct ChannelPermits {
    configured: usize,
    all: Arc<Permits>,
    /// Who works ahead of what was asked takes one of these first: there are fewer, so that a
    /// question never waits behind such work.
    background: Arc<Permits>,
    /// ChannelPermits of those whose channel is not open yet.
    opening: AtomicUsize,
    /// Those who wait for a place, but for work in the background.
    waiting: AtomicUsize,
    /// Those who have a place and wait for whoever takes what they bring.
    blocked_on_client: AtomicUsize,
    refusals: Mutex<Refusals>,
    last_release: Mutex<Instant>,
    last_byte: Mutex<Instant>,
}

/// The host has refused a channel.
#[derive(Debug, Default)]
struct Refusals {
    times: u32,
    /// Until when it is asked for no more than it gave.
    until: Option<Instant>,
}

/// One that is counted as long as this lives.
pub(super) struct CountGuard<'a>(&'a AtomicUsize);

impl<'a> CountGuard<'a> {
    fn new(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all)
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

    /// A place. It is waited for until, for as long as `limit` says, no channel has come back, no byte has come
    /// on any, and none was being opened or held by one who waits for its caller: such a one gives way (see
    /// [`Lease::is_needed`](super::Lease::is_needed)).
    ///
    /// # Errors
    /// How long was waited in vain.
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

    /// When it was seen last that a place may become free.
    fn last_movement(&self) -> Instant {
        // Both have limits of their own.
        let [blocked_on_client, opening] =
            [&self.blocked_on_client, &self.opening].map(|all| all.load(Ordering::Relaxed));
        match blocked_on_client + opening {
            0 => (*self.last_release.lock()).max(*self.last_byte.lock()),
            _ => Instant::now(),
        }
    }

    /// Whether somebody waits for a place who does not work in the background.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// To be held by one that has a place, as long as it waits for whoever takes what it brings.
    pub(super) fn blocked_on_client(&self) -> CountGuard<'_> {
        CountGuard::new(&self.blocked_on_client)
    }

    /// Something has come on one of the channels.
    pub(super) fn record_byte(&self) {
        *self.last_byte.lock() = Instant::now();
    }

    /// To be held by one that has a place, as long as its channel is not open.
    pub(super) fn opening(&self) -> CountGuard<'_> {
        CountGuard::new(&self.opening)
    }

    /// The host has refused a channel to one that has a place: from now on there are as many as are
    /// open, for a while, or one fewer where others are being opened that may have got what there is.
    /// Whether there is any, so that waiting for it has a point.
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
        // Those who were refused together were refused once.
        if refusals.until.is_none() {
            refusals.times = refusals.times.saturating_add(1);
            let pause = FIRST_PAUSE.saturating_mul(1 << (refusals.times - 1).min(16));
            refusals.until = Some(Instant::now() + pause.min(LONGEST_PAUSE));
        }
        drop(refusals);
        self.set(open.min(self.limit()));
        true
    }

    /// After the pause the host may be asked for more again.
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

    /// How many places there are now.
    pub(super) fn limit(&self) -> usize {
        self.all.limit()
    }

    /// Those that somebody holds.
    fn used(&self) -> usize {
        self.all.used()
    }
}
