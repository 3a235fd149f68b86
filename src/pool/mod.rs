//! All hosts as one: their connections, whom to ask, what to do when one fails.

mod ask;
mod health;
mod slot;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

pub use ask::{Answers, Holder};
pub use slot::{Banner, Lease};

use crate::config::host::Host;
pub use crate::remote::RemoteError;
use crate::transport::Transport;
use slot::Slot;

/// Tells the user of something that went wrong and does not stop the work.
pub type Notify = Arc<dyn Fn(&(dyn Error + 'static)) + Send + Sync>;

/// A host's place in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

impl HostId {
    /// The place, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// Limits of time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the wish to use a host to the end of its handshake.
    pub connect: Duration,
    /// How long a host that owes an answer may be silent.
    pub silence: Duration,
    /// How long a host may hold up an answer that one behind it in the order has given.
    pub hedge: Duration,
}

/// The hosts, in order of preference.
pub struct Pool {
    slots: Vec<Arc<Slot>>,
    limits: Limits,
    notify: Notify,
}

impl Pool {
    /// A pool of `hosts`, reached by `transport`. Nothing is connected yet.
    #[must_use]
    pub fn new(
        hosts: Vec<Host>,
        transport: Arc<dyn Transport>,
        limits: Limits,
        notify: Notify,
    ) -> Self {
        let slot = |(id, host)| {
            let (transport, notify) = (transport.clone(), notify.clone());
            Arc::new(Slot::new(HostId(id), host, transport, limits, notify))
        };
        Self {
            slots: hosts.into_iter().enumerate().map(slot).collect(),
            limits,
            notify,
        }
    }

    /// All hosts, in order.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.slots.len()).map(HostId)
    }

    /// The host of that place.
    #[must_use]
    pub fn host(&self, id: HostId) -> &Host {
        &self.slots[id.0].host
    }

    /// How many hosts rest or have just failed, and so gave no answer.
    #[must_use]
    pub fn in_trouble(&self) -> usize {
        let slots = self.slots.iter();
        slots
            .filter(|slot| slot.is_resting() || slot.has_just_failed())
            .count()
    }

    /// Tells the user.
    pub fn notify(&self, error: &(dyn Error + 'static)) {
        (self.notify)(error);
    }

    /// A connection to a host, an idle one or a new one, for as long as it is held.
    ///
    /// # Errors
    /// When the host cannot be connected to; to be passed to [`Pool::failed`].
    pub async fn lease(&self, id: HostId) -> Result<Lease, Arc<RemoteError>> {
        self.slots[id.0].lease().await
    }

    /// To be called when a host failed. The user is told once for each spell of trouble.
    pub fn failed(&self, id: HostId, error: &Arc<RemoteError>) {
        self.slots[id.0].failed(error);
    }
}
