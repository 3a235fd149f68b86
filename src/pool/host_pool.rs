//! One host: its connections, lent out one user at a time.

use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::channels::{ChannelPermit, ChannelPermits};
use super::health::Standing;
use super::idle::Idle;
use super::left_out::LeftOutTold;
use super::persistence::{HealthPersistence, HostHealth};
use super::shells::Shells;
use super::single_flight::{Admission, Generation, SingleFlight};
use super::trouble::Told;
use super::{HostId, Limits, Notify};
use crate::config::host::{Host, SshTarget};
use crate::hint::Hint;
use crate::remote::{
    ConnectOptions, Connection, Latency, LearntProgram, RemoteError, Request, Verdict, connect,
};
use crate::transport::{Program, Transport};

/// Text that a host printed before the handshake.
#[derive(Debug, thiserror::Error)]
#[error("{host}: skipped text that was printed before the handshake: {text:?}")]
pub struct Banner {
    /// The host.
    pub host: String,
    /// The beginning of the text.
    pub text: String,
}

impl Hint for Banner {
    fn hint(&self) -> Option<String> {
        let ssh = SshTarget::of(&self.host).ssh("true");
        Some(format!(
            "'{ssh}' must print nothing: let the shell start-up files there print only when they run in a terminal"
        ))
    }
}

/// How much of a banner is quoted, in characters.
const BANNER_SHOWN: usize = 300;

pub(super) struct HostPool {
    pub(super) id: HostId,
    pub(super) host: Host,
    transport: Arc<dyn Transport>,
    pub(super) limits: Limits,
    pub(super) notify: Notify,
    pub(super) channels: Arc<ChannelPermits>,
    pub(super) single_flight: SingleFlight,
    pub(super) persistence: HealthPersistence,
    pub(super) health: Arc<HostHealth>,
    pub(super) shells: Shells,
    pub(super) idle: Arc<Idle<Connection>>,
    pub(super) told: Mutex<Told>,
    latency: Mutex<Latency>,
    program: LearntProgram,
    banner_told: AtomicBool,
    pub(super) left_out: LeftOutTold,
    /// A connection has come about once.
    pub(super) connected: AtomicBool,
    /// Connections that are held.
    pub(super) held: AtomicUsize,
    /// A new command may probe it although it rests.
    pub(super) may_probe_early: AtomicBool,
    /// It has done what was asked, and nobody has probed it early since.
    pub(super) worked_before: AtomicBool,
    /// When somebody began to probe it early.
    pub(super) probed_early: Mutex<Option<Instant>>,
    /// It gave no answer when it was asked last, and has not failed for that.
    pub(super) is_without_answer: AtomicBool,
    /// Replies in a row that could not be read.
    pub(super) unreadable: AtomicU32,
}

impl HostPool {
    pub(super) fn new(
        id: HostId,
        host: Host,
        transport: Arc<dyn Transport>,
        limits: Limits,
        notify: Notify,
        persistence: HealthPersistence,
    ) -> Self {
        Self {
            id,
            channels: ChannelPermits::new(&host),
            single_flight: SingleFlight::default(),
            persistence,
            health: Arc::new(HostHealth::new(&host)),
            shells: Shells::new(),
            host,
            transport,
            limits,
            notify,
            idle: Idle::new(),
            told: Mutex::default(),
            latency: Mutex::default(),
            program: LearntProgram::default(),
            banner_told: AtomicBool::new(false),
            left_out: LeftOutTold::default(),
            connected: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            may_probe_early: AtomicBool::new(false),
            worked_before: AtomicBool::new(false),
            probed_early: Mutex::default(),
            is_without_answer: AtomicBool::new(false),
            unreadable: AtomicU32::new(0),
        }
    }

    pub(super) fn program(&self) -> Program {
        self.program.get()
    }

    pub(super) fn standing(&self) -> Standing {
        self.health.breaker.lock().standing(Instant::now())
    }

    /// It took longer than the hedge delay. Further questions do not wait for it as long as it
    /// does not answer in time, nor, while it has not even let us in, do those of later processes.
    pub(super) async fn took_too_long(&self) {
        self.health.slow.store(true, Ordering::Relaxed);
        if !self.connected.load(Ordering::Relaxed)
            && !self.health.in_doubt.swap(true, Ordering::Relaxed)
        {
            // Waited for, since this process may end with its next answer.
            self.persistence.save(&self.health).await;
        }
    }

    /// Whether an answer of a later host in the order may have to wait for this one.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.health.slow.load(Ordering::Relaxed) && self.standing() == Standing::Healthy
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// How quickly it has answered somebody.
    pub(super) fn learn(&self, latency: Latency) {
        self.latency.lock().learn(latency);
    }

    /// The shortest time in which it answered.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency.lock().shortest()
    }

    /// A connection on which these requests have been sent, on a new one right behind the hello.
    /// `in_background` is for work that may have to wait for others; `limit` is as in [`ChannelPermits::acquire`].
    pub(super) async fn lease(
        self: &Arc<Self>,
        in_background: bool,
        limit: Duration,
        requests: &[Request],
    ) -> Result<Lease, Arc<RemoteError>> {
        let generation = self.single_flight.generation();
        loop {
            let permit = self.channel_permit(in_background, limit).await?;
            let lease = |connection, reused| {
                self.held.fetch_add(1, Ordering::Relaxed);
                Lease {
                    connection: Some(connection),
                    host_pool: self.clone(),
                    reused,
                    permit: Some(permit),
                }
            };
            if let Some(connection) = self.take_idle(requests) {
                return Ok(lease(connection, true));
            }
            let opening = self.channels.opening();
            match self.open(generation, requests).await {
                Ok((connection, reused)) => return Ok(lease(connection, reused)),
                // Those that are open may become free. Each time round there are fewer.
                Err(error)
                    if self.verdict(&error) == Verdict::Refused && self.channels.shrink() =>
                {
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
        generation: Generation,
        requests: &[Request],
    ) -> Result<(Connection, bool), Arc<RemoteError>> {
        let permit = match self
            .single_flight
            .admit(generation, || self.is_left_alone())
            .await
        {
            Admission::Failed(error) => return Err(error),
            Admission::LeftAlone => return Err(self.rests()),
            Admission::Proven => None,
            Admission::Permit(permit) => Some(permit),
        };
        // Whoever had the turn before may be done with the connection already.
        if let Some(connection) = self.take_idle(requests) {
            return Ok((connection, true));
        }
        let mut connected = self.connect(requests).await;
        // What lies idle, of no use for a question, may be what is one too many.
        let refused = |error: &RemoteError| error.verdict() == Verdict::Refused;
        if connected.as_ref().is_err_and(refused) && self.close_one_idle() {
            connected = self.connect(requests).await;
        }
        match connected.map_err(Arc::new) {
            Ok(connection) => {
                if let Some(permit) = permit {
                    permit.finish(None);
                }
                Ok((connection, false))
            }
            Err(error) if self.verdict(&error) == Verdict::Refused => {
                if let Some(permit) = permit {
                    permit.finish(None);
                }
                Err(error)
            }
            Err(error) => {
                if permit.is_none() {
                    self.single_flight.failed(&error);
                }
                // Before the turn ends: who comes next shall know.
                self.failed(&error).await;
                if let Some(permit) = permit {
                    permit.finish(Some(&error));
                }
                Err(error)
            }
        }
    }

    async fn connect(&self, ahead: &[Request]) -> Result<Connection, RemoteError> {
        let options = ConnectOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
            program: &self.program,
        };
        self.make_room_for_channel();
        let connection = connect(&*self.transport, &self.host, &options, ahead).await?;
        self.learn(connection.latency());
        self.connected.store(true, Ordering::Relaxed);
        if self.health.in_doubt.swap(false, Ordering::Relaxed) {
            self.persistence.save_later(&self.health);
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
}

/// How often one who waits for its caller looks whether others need the channel.
const LOOK: Duration = Duration::from_secs(1);

/// A connection that is held by one user. It goes back to its host when it is dropped after clean
/// exchanges, and is closed otherwise.
pub struct Lease {
    // Both are taken only by its end.
    connection: Option<Connection>,
    permit: Option<ChannelPermit>,
    host_pool: Arc<HostPool>,
    reused: bool,
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
        self.host_pool.channels.record_byte();
        came
    }

    /// Whether somebody waits for a channel to this host who does not work in the background.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.host_pool.channels.has_waiters()
    }

    /// Returns when the channel has been held for `patience`, and somebody waits for one. To be called while
    /// nobody takes what it brings: as long as it is, those who wait go on waiting.
    pub async fn is_needed(&mut self, patience: Duration) {
        let _held_up = self.host_pool.channels.blocked_on_client();
        sleep(patience).await;
        while !self.is_waited_for() {
            sleep(LOOK).await;
        }
    }

    /// As drop, but later processes are told for certain when the host has recovered.
    pub(super) async fn give_back(self) {
        let host_pool = self.host_pool.clone();
        if self.is_clean() && host_pool.succeeded() {
            host_pool.persistence.save(&host_pool.health).await;
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only its end takes it")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only its end takes it")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

impl Lease {
    /// Ends it before it is dropped; it is of no use afterwards.
    pub fn end(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        self.host_pool.held.fetch_sub(1, Ordering::Relaxed);
        let left_out = connection.take_unreadable();
        self.host_pool.left_out.tell(&self.host_pool, left_out);
        self.host_pool.latency.lock().learn(connection.latency());
        if connection.is_clean() {
            if self.host_pool.succeeded() {
                self.host_pool
                    .persistence
                    .save_later(&self.host_pool.health);
            }
            self.host_pool.idle.push(connection);
        }
        self.permit = None;
    }
}
