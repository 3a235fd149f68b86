//! One host: its connections, lent out one user at a time.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::flight::{Flight, Ticket, Turn};
use super::health::Standing;
use super::keeper::{Keeper, Kept, now};
use super::places::{Learnt, configured, for_background};
use super::shells::Shells;
use super::{HostId, Limits, Notify, lock};
use crate::config::host::Host;
use crate::remote::{ConnectOptions, Connection, Latency, RemoteError, Request, connect};
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
    /// The failure that was taken into account last; those who shared it report it too.
    last: Option<Arc<RemoteError>>,
}

pub(super) struct Slot {
    pub(super) id: HostId,
    pub(super) host: Host,
    transport: Arc<dyn Transport>,
    limits: Limits,
    notify: Notify,
    pub(super) permits: Arc<Semaphore>,
    /// Who works ahead of what was asked takes one of these first: there are fewer, so that a
    /// question never waits behind such work.
    background: Arc<Semaphore>,
    flight: Flight,
    keeper: Keeper,
    pub(super) kept: Arc<Kept>,
    pub(super) shells: Shells,
    // These locks are held for a few instructions, never over an await.
    pub(super) idle: Mutex<Vec<Connection>>,
    told: Mutex<Told>,
    latency: Mutex<Latency>,
    usual_places: AtomicBool,
    banner_told: AtomicBool,
    /// A connection has come about once.
    connected: AtomicBool,
    pub(super) learnt: Learnt,
}

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
            permits: Arc::new(Semaphore::new(configured(&host))),
            background: Arc::new(Semaphore::new(for_background(configured(&host)))),
            flight: Flight::default(),
            keeper,
            kept: Arc::new(Kept::new(&host)),
            shells: Shells::default(),
            host,
            transport,
            limits,
            notify,
            idle: Mutex::default(),
            told: Mutex::default(),
            latency: Mutex::default(),
            usual_places: AtomicBool::new(false),
            banner_told: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            learnt: Learnt::default(),
        }
    }

    pub(super) fn has_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
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

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// The right to one more channel for work that can wait.
    pub(super) async fn background_permits(&self) -> Permits {
        // Never closed, so that permits always come; whoever holds them is under limits itself.
        let background = self.background.clone().acquire_owned().await.ok();
        let permit = self.permits.clone().acquire_owned().await.ok();
        (permit, background)
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
    pub(super) async fn lease_with(
        self: &Arc<Self>,
        requests: &[Request],
    ) -> Result<Lease, Arc<RemoteError>> {
        self.lease_as(None, requests).await
    }

    /// As [`Slot::lease_with`], for work that may have to wait for others.
    pub(super) async fn lease_in_background(
        self: &Arc<Self>,
        requests: &[Request],
    ) -> Result<Lease, Arc<RemoteError>> {
        let background = self.background.clone().acquire_owned().await.ok();
        self.lease_as(background, requests).await
    }

    async fn lease_as(
        self: &Arc<Self>,
        background: Option<OwnedSemaphorePermit>,
        requests: &[Request],
    ) -> Result<Lease, Arc<RemoteError>> {
        let ticket = self.flight.ticket();
        // Never closed, so that a permit always comes; whoever holds one is under limits itself.
        let permit = self.permits.clone().acquire_owned().await.ok();
        let (connection, reused) = match self.take_idle(requests) {
            Some(connection) => (connection, true),
            None => self.open(ticket, requests).await?,
        };
        Ok(Lease {
            connection: Some(connection),
            slot: self.clone(),
            reused,
            _permits: (permit, background),
        })
    }

    /// A connection, and whether it had been used before.
    async fn open(
        self: &Arc<Self>,
        ticket: Ticket,
        requests: &[Request],
    ) -> Result<(Connection, bool), Arc<RemoteError>> {
        let just_failed = || self.standing() == Standing::JustFailed;
        let mine = match self.flight.turn(ticket, just_failed).await {
            Turn::Failed(error) => return Err(error),
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
            Err(error) if self.is_one_too_many(&error) => {
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
        let mut idle = lock(&self.idle);
        while let Some(mut connection) = idle.pop() {
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

    /// Why it is in trouble, as the user was told.
    pub(super) fn trouble(&self) -> Option<Arc<RemoteError>> {
        let told = lock(&self.told);
        told.last
            .clone()
            .filter(|_| told.user && self.standing() != Standing::Healthy)
    }

    pub(super) async fn failed(&self, error: &Arc<RemoteError>) {
        self.flight.doubt();
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
            !std::mem::replace(&mut told.user, true)
        };
        if first {
            (self.notify)(&**error);
        } else {
            log::debug!("{error}");
        }
        let counts = lock(&self.kept.health).failed(now(), self.keeper.random());
        // A fault of this machine is not to be held against the host by processes to come.
        let local = matches!(
            **error,
            RemoteError::Transport(
                TransportError::SshMissing { .. }
                    | TransportError::RuntimeDir(_)
                    | TransportError::Local { .. }
                    | TransportError::BadCommand { .. }
            )
        );
        if counts && !local {
            self.keeper.save(&self.kept).await;
        }
    }

    /// It did what was asked. Whether later processes are still to be told.
    fn succeeded(&self) -> bool {
        let news = lock(&self.kept.health).succeeded();
        if news {
            *lock(&self.told) = Told::default();
        }
        news
    }
}

/// The right to a channel: that of everybody, and that of work in the background.
pub(super) type Permits = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

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
    _permits: Permits,
}

impl Lease {
    /// Whether it had been used before: such a one may have died since, which says nothing about
    /// the host.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
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
            lock(&self.slot.idle).push(connection);
        }
    }
}
