//! Connections of one host, lent to one user at a time.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::HostPool;
use super::reports::Banner;
use crate::pool::channels::ChannelPermit;
use crate::pool::single_flight::{Admission, Generation};
use crate::remote::{ConnectOptions, Connection, RemoteError, Request, Verdict, connect};

/// How much of a banner is quoted, in characters.
const BANNER_QUOTE_CHARS: usize = 300;

/// How often a lease that its client blocks checks whether somebody waits for the channel.
const WAITER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl HostPool {
    /// A connection on which these requests have been sent, on a new one right behind the hello.
    /// `in_background` is for work that nobody waits for yet; `limit` is as in `ChannelPermits::acquire`.
    pub(in crate::pool) async fn lease(
        self: &Arc<Self>,
        in_background: bool,
        limit: Duration,
        requests: &[Request],
    ) -> Result<Lease, Arc<RemoteError>> {
        self.record_store_dir(requests);
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
                // Open channels may become free. Each time round there are fewer, so this ends.
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
            Admission::LeftAlone => return Err(self.resting_error()),
            Admission::Proven => None,
            Admission::Permit(permit) => Some(permit),
        };
        // The caller that connected before may have given its connection back already.
        if let Some(connection) = self.take_idle(requests) {
            return Ok((connection, true));
        }
        let mut connected = self.connect(requests).await;
        // An idle connection that is of no use here may be the one too many.
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
                    self.single_flight.record_failure(&error);
                }
                // Before the permit is released, so that the next caller sees it.
                self.record_failure(&error).await;
                if let Some(permit) = permit {
                    permit.finish(Some(&error));
                }
                Err(error)
            }
        }
    }

    /// A new connection on which these requests have been sent.
    pub(super) async fn connect(&self, ahead: &[Request]) -> Result<Connection, RemoteError> {
        let options = ConnectOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
            program: &self.program,
        };
        self.make_room_for_channel();
        let connection = connect(&*self.transport, &self.host, &options, ahead).await?;
        self.record_connected(&connection);
        Ok(connection)
    }

    /// Takes in what a new connection says of the host.
    pub(super) fn record_connected(&self, connection: &Connection) {
        self.record_latency(connection.latency());
        self.was_connected.store(true, Ordering::Relaxed);
        if self.health.in_doubt.swap(false, Ordering::Relaxed) {
            self.persistence.save_later(&self.health);
        }
        if !connection.banner().is_empty() && !self.is_banner_reported.swap(true, Ordering::Relaxed)
        {
            let text = String::from_utf8_lossy(connection.banner());
            (self.notify)(&Banner {
                host: self.host.to_string(),
                text: text.trim().chars().take(BANNER_QUOTE_CHARS).collect(),
            });
        }
    }
}

/// A connection that is lent to one user. When it is dropped after clean exchanges it goes back to its host,
/// and is closed otherwise.
pub struct Lease {
    // Both are taken only by `end`.
    connection: Option<Connection>,
    permit: Option<ChannelPermit>,
    host_pool: Arc<HostPool>,
    reused: bool,
}

impl Lease {
    /// Whether it had been used before: such a connection may have died since, which says nothing about the
    /// host.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// As [`Connection::nar_bytes`]; callers that wait for a channel see that this one is in use.
    ///
    /// # Errors
    /// As [`Connection::nar_bytes`].
    pub async fn nar_bytes(&mut self) -> Result<(), RemoteError> {
        let came = (**self).nar_bytes().await;
        self.host_pool.channels.record_byte();
        came
    }

    /// Whether somebody waits for a channel to this host, except for work in the background.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.host_pool.channels.has_waiters()
    }

    /// Returns once the channel has been held for `patience` longer and somebody waits for one. To be called
    /// while the client takes no bytes: until it returns, callers that wait for a channel do not give up.
    pub async fn until_needed(&mut self, patience: Duration) {
        let _held_up = self.host_pool.channels.blocked_on_client();
        sleep(patience).await;
        while !self.has_waiters() {
            sleep(WAITER_CHECK_INTERVAL).await;
        }
    }

    /// As drop, but waits until later processes can see that the host has recovered.
    pub(in crate::pool) async fn give_back(self) {
        let host_pool = self.host_pool.clone();
        if self.is_clean() && host_pool.record_success() {
            host_pool.persistence.save(&host_pool.health).await;
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only `end` takes it")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only `end` takes it")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

impl Lease {
    /// Gives it back before it is dropped; it must not be used afterwards.
    pub fn end(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        self.host_pool.held.fetch_sub(1, Ordering::Relaxed);
        let skipped = connection.take_unreadable();
        let HostPool { host, notify, .. } = &*self.host_pool;
        let reports = &self.host_pool.skipped_path_reports;
        reports.report(host, notify, skipped);
        self.host_pool.latency.lock().merge(connection.latency());
        if connection.is_clean() {
            if self.host_pool.record_success() {
                self.host_pool
                    .persistence
                    .save_later(&self.host_pool.health);
            }
            self.host_pool.idle.push(connection);
        }
        self.permit = None;
    }
}
