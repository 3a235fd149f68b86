//! One for all: as long as a host is not known to answer, one connects and the others wait for
//! what becomes of it. Otherwise each of them would pay the connect timeout, and an sshd would see
//! a burst of failures (its `PerSourcePenalties` and `MaxStartups`, sshd_config(5)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use crate::remote::RemoteError;

/// Whose turn it is to try a host.
#[derive(Default)]
pub(super) struct Flight {
    /// How the last try ended, when it failed. Held by the one that tries.
    turn: Mutex<Option<Arc<RemoteError>>>,
    ended: AtomicU64,
    proven: AtomicBool,
}

/// The tries that had ended when somebody came.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

/// What one who wants to connect has to do.
pub(super) enum Turn<'a> {
    /// Connect: the host is known to answer.
    Free,
    /// Try, and tell how it went.
    Mine(Try<'a>),
    /// Give up: somebody has tried meanwhile.
    Failed(Arc<RemoteError>),
    /// Give up: somebody has tried before, and that still stands.
    LeftAlone,
}

/// The right to try.
pub(super) struct Try<'a> {
    flight: &'a Flight,
    last: MutexGuard<'a, Option<Arc<RemoteError>>>,
}

impl Flight {
    /// To be taken before any waiting: later failures are shared with the holder.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.ended.load(Ordering::Acquire))
    }

    /// Waits for those who try. `is_fresh` tells whether the last failure, even if it is older
    /// than the ticket, still stands.
    pub(super) async fn turn(&self, ticket: Ticket, is_fresh: impl Fn() -> bool) -> Turn<'_> {
        if self.proven.load(Ordering::Acquire) {
            return Turn::Free;
        }
        let last = self.turn.lock().await;
        if self.proven.load(Ordering::Acquire) {
            return Turn::Free;
        }
        match &*last {
            Some(error) if self.ticket().0 != ticket.0 => Turn::Failed(error.clone()),
            Some(_) if is_fresh() => Turn::LeftAlone,
            _ => Turn::Mine(Try { flight: self, last }),
        }
    }

    /// One who was [`Turn::Free`] failed: those who waited behind it need not try again.
    pub(super) fn failed(&self, error: &Arc<RemoteError>) {
        self.doubt();
        // Who holds it tries already, and will know better.
        if let Ok(mut last) = self.turn.try_lock() {
            *last = Some(error.clone());
            self.ended.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The host is in doubt (again).
    pub(super) fn doubt(&self) {
        self.proven.store(false, Ordering::Release);
    }
}

impl Try<'_> {
    /// Tells the others how it went.
    pub(super) fn end(mut self, error: Option<&Arc<RemoteError>>) {
        *self.last = error.cloned();
        self.flight.proven.store(error.is_none(), Ordering::Release);
        self.flight.ended.fetch_add(1, Ordering::AcqRel);
    }
}
