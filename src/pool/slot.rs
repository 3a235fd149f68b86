//! One host: its connections, lent out one user at a time.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::health::Health;
use super::{HostId, Limits, Notify};
use crate::config::host::Host;
use crate::remote::{ConnectOptions, Connection, RemoteError, connect};
use crate::transport::Transport;

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

pub(super) struct Slot {
    pub(super) id: HostId,
    pub(super) host: Host,
    transport: Arc<dyn Transport>,
    limits: Limits,
    notify: Notify,
    permits: Arc<Semaphore>,
    // Both locks are held for a few instructions, never over an await.
    idle: Mutex<Vec<Connection>>,
    health: Mutex<Health>,
    usual_places: AtomicBool,
    banner_told: AtomicBool,
}

impl Slot {
    pub(super) fn new(
        id: HostId,
        host: Host,
        transport: Arc<dyn Transport>,
        limits: Limits,
        notify: Notify,
    ) -> Self {
        Self {
            id,
            permits: Arc::new(Semaphore::new(host.max_connections.max(1) as usize)),
            host,
            transport,
            limits,
            notify,
            idle: Mutex::default(),
            health: Mutex::default(),
            usual_places: AtomicBool::new(false),
            banner_told: AtomicBool::new(false),
        }
    }

    pub(super) fn is_resting(&self) -> bool {
        lock(&self.health).is_resting(Instant::now())
    }

    pub(super) fn has_just_failed(&self) -> bool {
        lock(&self.health).has_just_failed(Instant::now())
    }

    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Arc<RemoteError>> {
        // Never closed, so that a permit always comes; whoever holds one is under limits itself.
        let permit = self.permits.clone().acquire_owned().await.ok();
        let (connection, reused) = match self.take_idle() {
            Some(connection) => (connection, true),
            None => (self.connect().await.map_err(Arc::new)?, false),
        };
        Ok(Lease {
            connection: Some(connection),
            slot: self.clone(),
            reused,
            _permit: permit,
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        while let Some(mut connection) = idle.pop() {
            if !connection.is_gone() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, RemoteError> {
        let options = ConnectOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
            usual_places: &self.usual_places,
        };
        let connection = connect(&*self.transport, &self.host, &options).await?;
        if !connection.banner().is_empty() && !self.banner_told.swap(true, Ordering::Relaxed) {
            let text = String::from_utf8_lossy(connection.banner());
            (self.notify)(&Banner {
                host: self.host.to_string(),
                text: text.trim().chars().take(BANNER_SHOWN).collect(),
            });
        }
        Ok(connection)
    }

    pub(super) fn failed(&self, error: &Arc<RemoteError>) {
        if lock(&self.health).failed(Instant::now()) {
            (self.notify)(&**error);
        } else {
            log::debug!("{error}");
        }
    }
}

/// A connection that is held by one user. It goes back to its host when it is dropped after clean
/// exchanges, and is closed otherwise.
pub struct Lease {
    // Taken only by drop.
    connection: Option<Connection>,
    slot: Arc<Slot>,
    reused: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Whether it had been used before: such a one may have died since, which says nothing about
    /// the host.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
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
        if let Some(connection) = self.connection.take()
            && connection.is_clean()
        {
            lock(&self.slot.health).succeeded();
            lock(&self.slot.idle).push(connection);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
