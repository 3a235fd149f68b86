//! How many channels to a host there may be, and who may have one.

use parking_lot::Mutex;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::host_pool::HostPool;
use super::permits::{Permit, Permits};
use crate::config::host::Host;
use crate::remote::RemoteError;

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
fn for_background(places: usize) -> usize {
    places.saturating_sub(1).max(1)
}

/// The right to a channel: that of everybody, and that of work in the background.
pub(super) struct Place {
    _background: Option<Permit>,
    _permit: Permit,
    places: Arc<Places>,
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.places.came_back.lock() = Instant::now();
    }
}

/// The places of one host.
pub(super) struct Places {
    configured: usize,
    all: Arc<Permits>,
    /// Who works ahead of what was asked takes one of these first: there are fewer, so that a
    /// question never waits behind such work.
    background: Arc<Permits>,
    /// Places of those whose channel is not open yet.
    opening: AtomicUsize,
    /// Those who wait for a place, but for work in the background.
    waiting: AtomicUsize,
    /// Those who have a place and wait for whoever takes what they bring.
    held_up: AtomicUsize,
    refused: Mutex<Refused>,
    came_back: Mutex<Instant>,
    bytes_came: Mutex<Instant>,
}

/// The host has refused a channel.
#[derive(Debug, Default)]
struct Refused {
    times: u32,
    /// Until when it is asked for no more than it gave.
    until: Option<Instant>,
}

/// One that is counted as long as this lives.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn among(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    pub(super) fn new(host: &Host) -> Arc<Self> {
        let configured = configured(host);
        Arc::new(Self {
            configured,
            all: Permits::new(configured),
            background: Permits::new(for_background(configured)),
            opening: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            held_up: AtomicUsize::new(0),
            refused: Mutex::default(),
            came_back: Mutex::new(Instant::now()),
            bytes_came: Mutex::new(Instant::now()),
        })
    }

    /// A place. It is waited for until, for as long as `limit` says, no channel has come back, no byte has come
    /// on any, and none was being opened or held by one who waits for its caller: such a one gives way (see
    /// [`Lease::is_needed`](super::Lease::is_needed)).
    ///
    /// # Errors
    /// How long was waited in vain.
    pub(super) async fn take(
        self: &Arc<Self>,
        in_background: bool,
        limit: Duration,
    ) -> Result<Place, Duration> {
        self.recover();
        let began = Instant::now();
        let _waiting = (!in_background).then(|| Counted::among(&self.waiting));
        let mut both = pin!(async {
            let background = match in_background {
                true => Some(self.background.acquire().await),
                false => None,
            };
            (background, self.all.acquire().await)
        });
        loop {
            let until = began.max(self.moved()) + limit;
            match timeout_at(until, &mut both).await {
                Ok((background, permit)) => {
                    return Ok(Place {
                        _background: background,
                        _permit: permit,
                        places: self.clone(),
                    });
                }
                Err(_) if began.max(self.moved()) + limit > Instant::now() => {}
                Err(_) => return Err(began.elapsed()),
            }
        }
    }

    /// When it was seen last that a place may become free.
    fn moved(&self) -> Instant {
        // Both have limits of their own.
        let [held_up, opening] =
            [&self.held_up, &self.opening].map(|all| all.load(Ordering::Relaxed));
        match held_up + opening {
            0 => (*self.came_back.lock()).max(*self.bytes_came.lock()),
            _ => Instant::now(),
        }
    }

    /// Whether somebody waits for a place who does not work in the background.
    pub(super) fn are_needed(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// To be held by one that has a place, as long as it waits for whoever takes what it brings.
    pub(super) fn held_up(&self) -> Counted<'_> {
        Counted::among(&self.held_up)
    }

    /// Something has come on one of the channels.
    pub(super) fn bytes_came(&self) {
        *self.bytes_came.lock() = Instant::now();
    }

    /// To be held by one that has a place, as long as its channel is not open.
    pub(super) fn opening(&self) -> Counted<'_> {
        Counted::among(&self.opening)
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
        let mut refused = self.refused.lock();
        // Those who were refused together were refused once.
        if refused.until.is_none() {
            refused.times = refused.times.saturating_add(1);
            let pause = FIRST_PAUSE.saturating_mul(1 << (refused.times - 1).min(16));
            refused.until = Some(Instant::now() + pause.min(LONGEST_PAUSE));
        }
        drop(refused);
        self.set(open.min(self.limit()));
        true
    }

    /// After the pause the host may be asked for more again.
    fn recover(&self) {
        let mut refused = self.refused.lock();
        if refused.until.is_some_and(|until| Instant::now() >= until) {
            refused.until = None;
            drop(refused);
            self.set(self.configured);
        }
    }

    fn set(&self, limit: usize) {
        self.all.set_limit(limit);
        self.background.set_limit(for_background(limit));
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

impl HostPool {
    /// How many channels work in the background may have.
    pub(super) fn background_places(&self) -> usize {
        for_background(self.places.limit())
    }

    /// A place for a channel; `limit` as in [`Places::take`].
    pub(super) async fn place(
        &self,
        in_background: bool,
        limit: Duration,
    ) -> Result<Place, RemoteError> {
        let place = self.places.take(in_background, limit).await;
        place.map_err(|after| RemoteError::Busy {
            host: self.host.to_string(),
            channels: self.places.limit(),
            after,
        })
    }

    /// Channels that there are.
    pub(super) fn connections(&self) -> usize {
        self.places.used() + self.shells.idle() + self.idle.len()
    }

    /// To be called before a channel is opened: those that lie idle count too, and shells go first.
    pub(super) fn make_room(&self) {
        while self.connections() > self.places.limit() && self.close_one_idle() {}
    }
}
