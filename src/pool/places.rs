//! How many channels to a host there may be.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::lock;
use super::slot::Slot;
use crate::config::host::Host;
use crate::remote::RemoteError;
use crate::transport::TransportError;

/// How many there may be by the host's configuration.
pub(super) fn configured(host: &Host) -> usize {
    host.max_connections.max(1) as usize
}

/// How many of so many work in the background may take.
pub(super) fn for_background(places: usize) -> usize {
    places.saturating_sub(1).max(1)
}

/// What the host itself lets us have, once it has refused one.
#[derive(Debug)]
pub(super) struct Learnt(AtomicUsize);

impl Default for Learnt {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Slot {
    /// How many channels work in the background may have.
    pub(super) fn background_places(&self) -> usize {
        let learnt = self.learnt.0.load(Ordering::Relaxed);
        for_background(configured(&self.host).min(learnt))
    }

    /// Channels that somebody holds.
    fn used(&self) -> usize {
        configured(&self.host).saturating_sub(self.permits.available_permits())
    }

    /// Channels that there are.
    pub(super) fn connections(&self) -> usize {
        self.used() + self.shells.idle() + lock(&self.idle).len()
    }

    /// To be called when no channel could be opened. Whether that was one too many (sshd's
    /// `MaxSessions`, say), which is no failure of a host that gave us others.
    pub(super) fn is_one_too_many(&self, error: &RemoteError) -> bool {
        let refused = RemoteError::is_refusal(error);
        if !refused || !self.has_connected() {
            return false;
        }
        log::debug!("{error}; going on with fewer");
        let others = self.used().saturating_sub(1).max(1);
        self.learnt.0.fetch_min(others, Ordering::Relaxed);
        true
    }

    /// To be called before a channel is opened: those that lie idle count too, and shells go first.
    pub(super) fn make_room(&self) {
        while self.connections() > configured(&self.host) && self.close_one_idle() {}
    }
}

impl RemoteError {
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Transport(TransportError::SessionRefused { .. }))
    }
}
