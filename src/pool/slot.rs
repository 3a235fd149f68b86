//! One host: its connections, lent out one user at a time.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::flight::{Flight, Ticket, Turn};
use super::health::Standing;
use super::idle::Idle;
use super::keeper::{Keeper, Kept, now, random};
use super::places::{Place, Places, Wait};
use super::shells::Shells;
use super::{HostId, Limits, Notify, lock};
use crate::config::host::Host;
use crate::remote::{ConnectOptions, Connection, Latency, RemoteError, Request, Verdict, connect};
use crate::transport::{Transport, TransportError};

/// Text that a host printed before the handshake.
#[derive(Debug, thiserror::Error)]
#[error("{host}: skipped text that was printed before the handshake: {text:?}")]
pub struct Banner {
    /// The host.
    pub host: String,
    /// The beginning of the text.
    pub text: String,
}

/// How much of a banner is quoted, in characters.
const BANNER_SHOWN: usize = 300;

/// What has been said about failures since the host last did what was asked.
#[derive(Default)]
struct Told {
    user: bool,
    /// That replies cannot be read: no spell of trouble, and so told once for each command.
    unreadable: bool,
    /// The failure that was taken into account last; those who shared it report it too.
    last: Option<Arc<RemoteError>>,
}

pub(super) struct Slot {
    pub(super) id: HostId,
    pub(super) host: Host,
    transport: Arc<dyn Transport>,
    pub(super) limits: Limits,
    notify: Notify,
    pub(super) places: Arc<Places>,
    flight: Flight,
    keeper: Keeper,
    pub(super) kept: Arc<Kept>,
    pub(super) shells: Shells,
    pub(super) idle: Arc<Idle<Connection>>,
    // These locks are held for a few instructions, never over an await.
    told: Mutex<Told>,
    latency: Mutex<Latency>,
    usual_places: AtomicBool,
    banner_told: AtomicBool,
    /// A connection has come about once.
    connected: AtomicBool,
    /// A new command may probe it although it rests.
    may_probe_early: AtomicBool,
    /// It gave no answer when it was asked last, and has not failed for that.
    is_without_answer: AtomicBool,
    /// Replies in a row that could not be read.
    unreadable: AtomicU32,
}

/// A host that sends nothing but what cannot be read, so many times in a row, has failed: the program
/// there is broken, not its knowledge of one path.
const UNREADABLE: u32 = 3;

impl Slot {
    pub(super) fn new(
        id: HostId,
        host: Host,
        transport: Arc<dyn Transport>,
        limits: Limits,
        notify: Notify,
        keeper: Keeper,
    ) -> Self {
        Self {
            id,
            places: Places::new(&host),
            flight: Flight::default(),
            keeper,
            kept: Arc::new(Kept::new(&host)),
            shells: Shells::new(),
            host,
            transport,
            limits,
            notify,
            idle: Idle::new(),
            told: Mutex::default(),
            latency: Mutex::default(),
            usual_places: AtomicBool::new(false),
            banner_told: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            may_probe_early: AtomicBool::new(false),
            is_without_answer: AtomicBool::new(false),
            unreadable: AtomicU32::new(0),
        }
    }

    pub(super) fn is_in_usual_places(&self) -> bool {
        self.usual_places.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self) -> Standing {
        lock(&self.kept.health).standing(Instant::now())
    }

    /// It took longer than the hedge delay. Further questions do not wait for it as long as it
    /// does not answer in time, nor, while it has not even let us in, do those of later processes.
    pub(super) async fn took_too_long(&self) {
        self.kept.slow.store(true, Ordering::Relaxed);
        if !self.connected.load(Ordering::Relaxed)
            && !self.kept.in_doubt.swap(true, Ordering::Relaxed)
        {
            // Waited for, since this process may end with its next answer.
            self.keeper.save(&self.kept).await;
        }
    }

    /// Whether an answer of a later host in the order may have to wait for this one.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.kept.slow.load(Ordering::Relaxed) && self.standing() == Standing::Healthy
    }

    /// Whether the user has been told of the present trouble.
    pub(super) fn has_told(&self) -> bool {
        lock(&self.told).user
    }

    /// The right to find out whether a half-open host is back, if nobody else is at it.
    pub(super) fn probe(self: &Arc<Self>) -> Option<Probe> {
        let mine = lock(&self.kept.health).start_probe(Instant::now());
        mine.then(|| Probe(self.clone()))
    }

    /// The same before its pause is over, once for each new command.
    pub(super) fn early_probe(self: &Arc<Self>) -> Option<Probe> {
        if self.standing() == Standing::Healthy || !self.may_probe_early() {
            return None;
        }
        let mine = lock(&self.kept.health).start_early_probe();
        mine.then(|| Probe(self.clone()))
    }

    /// Takes a new command's right to do so.
    fn may_probe_early(&self) -> bool {
        self.may_probe_early.swap(false, Ordering::Relaxed)
    }

    /// Whether it has just failed, and nobody may find out more by now.
    fn is_left_alone(&self) -> bool {
        let is_probed = || lock(&self.kept.health).is_probed_early();
        self.standing() == Standing::JustFailed && !is_probed() && !self.may_probe_early()
    }

    /// Somebody new asks: who has been told nothing, and may find out whether the host is back.
    pub(super) fn new_command(&self) {
        self.may_probe_early.store(true, Ordering::Relaxed);
        let mut told = lock(&self.told);
        (told.user, told.unreadable) = (false, false);
    }

    /// How long ago it failed last.
    pub(super) fn left_alone_for(&self) -> Duration {
        lock(&self.kept.health).left_alone_for(Instant::now())
    }

    /// That it is not asked, and why.
    pub(super) fn rests(&self) -> Arc<RemoteError> {
        Arc::new(RemoteError::Rests {
            host: self.host.to_string(),
            since: self.left_alone_for(),
            why: lock(&self.told).last.clone(),
        })
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// How quickly it has answered somebody.
    pub(super) fn learn(&self, latency: Latency) {
        lock(&self.latency).learn(latency);
    }

    /// The shortest time in which it answered.
    pub(super) fn latency(&self) -> Option<Duration> {
        lock(&self.latency).shortest()
    }

    /// A connection on which these requests have been sent, on a new one right behind the hello.
    /// `in_background` is for work that may have to wait for others.
    pub(super) async fn lease(
        self: &Arc<Self>,
        in_background: bool,
        wait: Wait,
        requests: &[Request],
    ) -> Result<Lease, Arc<RemoteError>> {
        let ticket = self.flight.ticket();
        loop {
            let place = self.place(in_background, wait).await?;
            let lease = |connection, reused| Lease {
                connection: Some(connection),
                slot: self.clone(),
                reused,
                _place: place,
            };
            if let Some(connection) = self.take_idle(requests) {
                return Ok(lease(connection, true));
            }
            let opening = self.places.opening();
            match self.open(ticket, requests).await {
                Ok((connection, reused)) => return Ok(lease(connection, reused)),
                // Those that are open may become free. Each time round there are fewer.
                Err(error) if self.verdict(&error) == Verdict::Refused && self.places.shrink() => {
                    log::debug!("{error}; going on with fewer");
                    drop(opening);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A connection, and whether it had been used before.
    async fn open(
        self: &Arc<Self>,
        ticket: Ticket,
        requests: &[Request],
    ) -> Result<(Connection, bool), Arc<RemoteError>> {
        let mine = match self.flight.turn(ticket, || self.is_left_alone()).await {
            Turn::Failed(error) => return Err(error),
            Turn::LeftAlone => return Err(self.rests()),
            Turn::Free => None,
            Turn::Mine(mine) => Some(mine),
        };
        // Whoever had the turn before may be done with the connection already.
        if let Some(connection) = self.take_idle(requests) {
            return Ok((connection, true));
        }
        match self.connect(requests).await.map_err(Arc::new) {
            Ok(connection) => {
                if let Some(mine) = mine {
                    mine.end(None);
                }
                Ok((connection, false))
            }
            Err(error) if self.verdict(&error) == Verdict::Refused => {
                if let Some(mine) = mine {
                    mine.end(None);
                }
                Err(error)
            }
            Err(error) => {
                if mine.is_none() {
                    self.flight.failed(&error);
                }
                // Before the turn ends: who comes next shall know.
                self.failed(&error).await;
                if let Some(mine) = mine {
                    mine.end(Some(&error));
                }
                Err(error)
            }
        }
    }

    /// A connection that lies idle; the requests have been sent on it.
    fn take_idle(&self, requests: &[Request]) -> Option<Connection> {
        while let Some(mut connection) = self.idle.pop() {
            if !connection.is_gone() {
                requests.iter().for_each(|request| connection.send(request));
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self, ahead: &[Request]) -> Result<Connection, RemoteError> {
        let options = ConnectOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
            usual_places: &self.usual_places,
        };
        self.make_room();
        let connection = connect(&*self.transport, &self.host, &options, ahead).await?;
        self.learn(connection.latency());
        self.connected.store(true, Ordering::Relaxed);
        if self.kept.in_doubt.swap(false, Ordering::Relaxed) {
            self.keeper.save_later(&self.kept);
        }
        if !connection.banner().is_empty() && !self.banner_told.swap(true, Ordering::Relaxed) {
            let text = String::from_utf8_lossy(connection.banner());
            (self.notify)(&Banner {
                host: self.host.to_string(),
                text: text.trim().chars().take(BANNER_SHOWN).collect(),
            });
        }
        Ok(connection)
    }

    /// That it is left alone, and why, where that has been seen here.
    pub(super) fn trouble(&self) -> Option<Arc<RemoteError>> {
        let is_known = lock(&self.told).last.is_some();
        (is_known && self.standing() != Standing::Healthy).then(|| self.rests())
    }

    /// Whether it gave no answer when it was asked last, or would not be asked now.
    pub(super) fn is_without_answer(&self) -> bool {
        self.standing() != Standing::Healthy || self.is_without_answer.load(Ordering::Relaxed)
    }

    /// What it says of this host that an exchange ended so.
    pub(super) fn verdict(&self, error: &RemoteError) -> Verdict {
        match error.verdict() {
            Verdict::Refused
                if matches!(
                    error,
                    RemoteError::Transport(TransportError::SessionRefused { .. })
                ) && !self.connected.load(Ordering::Relaxed) =>
            {
                Verdict::Failed
            }
            Verdict::Unreadable if self.unreadable.load(Ordering::Relaxed) >= UNREADABLE => {
                Verdict::Failed
            }
            verdict => verdict,
        }
    }

    /// An exchange ended so: see [`Verdict`] for what follows.
    pub(super) async fn failed(&self, error: &Arc<RemoteError>) {
        match error.verdict() {
            // The end of a connection says nothing about what is asked on the next one.
            Verdict::Absent => return log::debug!("{error}"),
            Verdict::Unreadable => {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.is_without_answer.store(true, Ordering::Relaxed);
        let verdict = self.verdict(error);
        if verdict == Verdict::Refused || matches!(**error, RemoteError::Rests { .. }) {
            return log::debug!("{error}");
        }
        if !matches!(verdict, Verdict::NotAsked | Verdict::Unreadable) {
            self.flight.doubt();
        }
        let first = {
            let mut told = lock(&self.told);
            if told
                .last
                .as_ref()
                .is_some_and(|last| Arc::ptr_eq(last, error))
            {
                return;
            }
            told.last = Some(error.clone());
            let is_told = match verdict {
                Verdict::Unreadable => &mut told.unreadable,
                _ => &mut told.user,
            };
            !std::mem::replace(is_told, true)
        };
        if first {
            (self.notify)(&**error);
        } else {
            log::debug!("{error}");
        }
        let is_kept = match verdict {
            Verdict::Failed => true,
            // Not to be held against the host by processes to come. A link that this machine has
            // stopped is made anew at once.
            Verdict::Local if !matches!(**error, RemoteError::LinkStopped { .. }) => false,
            _ => return,
        };
        let counts = lock(&self.kept.health).failed(now(), random());
        if counts && is_kept {
            self.keeper.save(&self.kept).await;
        }
    }

    /// It did what was asked. Whether later processes are still to be told.
    fn succeeded(&self) -> bool {
        let news = lock(&self.kept.health).succeeded();
        self.unreadable.store(0, Ordering::Relaxed);
        if self.is_without_answer.swap(false, Ordering::Relaxed) || news {
            let mut told = lock(&self.told);
            (told.user, told.last) = (false, None);
        }
        news
    }
}

/// The right to find out whether a host is back; ends when it is dropped.
pub(super) struct Probe(Arc<Slot>);

impl Drop for Probe {
    fn drop(&mut self) {
        lock(&self.0.kept.health).end_probe();
    }
}

/// A connection that is held by one user. It goes back to its host when it is dropped after clean
/// exchanges, and is closed otherwise.
pub struct Lease {
    // Taken only by drop.
    connection: Option<Connection>,
    slot: Arc<Slot>,
    reused: bool,
    _place: Place,
}

impl Lease {
    /// Whether it had been used before: such a one may have died since, which says nothing about
    /// the host.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// As [`Connection::nar_bytes`]; those who wait for a channel see that this one is of use.
    ///
    /// # Errors
    /// As [`Connection::nar_bytes`].
    pub async fn nar_bytes(&mut self) -> Result<(), RemoteError> {
        let came = (**self).nar_bytes().await;
        self.slot.places.bytes_came();
        came
    }

    /// As drop, but later processes are told for certain when the host has recovered.
    pub(super) async fn give_back(self) {
        let slot = self.slot.clone();
        if self.is_clean() && slot.succeeded() {
            slot.keeper.save(&slot.kept).await;
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only drop takes it")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        lock(&self.slot.latency).learn(connection.latency());
        if connection.is_clean() {
            if self.slot.succeeded() {
                self.slot.keeper.save_later(&self.slot.kept);
            }
            self.slot.idle.push(connection);
        }
    }
}
