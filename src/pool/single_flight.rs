//! Single-flight connecting: as long as a host is not known to answer, one caller connects and the
//! others wait for the outcome. Otherwise each of them would pay the connect timeout, and an sshd would
//! see a burst of failures (its `PerSourcePenalties` and `MaxStartups`, sshd_config(5)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use crate::remote::RemoteError;

/// Lets one caller at a time try a host that is not known to answer.
#[derive(Default)]
pub(super) struct SingleFlight {
    /// How the last attempt ended, when it failed. Locked by the caller that is trying.
    last_failure: Mutex<Option<Arc<RemoteError>>>,
    /// How many attempts have ended.
    ended: AtomicU64,
    /// The host is known to answer.
    proven: AtomicBool,
}

/// How many attempts had ended when a caller came.
#[derive(Clone, Copy)]
pub(super) struct Generation(u64);

/// What a caller that wants to connect has to do.
pub(super) enum Admission<'a> {
    /// Connect: the host is known to answer.
    Proven,
    /// Try, and say how it went.
    Permit(ConnectPermit<'a>),
    /// Give up: an attempt failed while this caller waited.
    Failed(Arc<RemoteError>),
    /// Give up: an earlier attempt failed, and that still stands.
    LeftAlone,
}

/// The right to try, held by one caller at a time.
pub(super) struct ConnectPermit<'a> {
    single_flight: &'a SingleFlight,
    last: MutexGuard<'a, Option<Arc<RemoteError>>>,
}

impl SingleFlight {
    /// To be taken before any waiting: failures of later generations are shared with the caller.
    pub(super) fn generation(&self) -> Generation {
        Generation(self.ended.load(Ordering::Acquire))
    }

    /// Waits for an attempt that is under way. `is_fresh` tells whether the last failure still stands,
    /// even if it is older than `generation`.
    pub(super) async fn admit(
        &self,
        generation: Generation,
        is_fresh: impl Fn() -> bool,
    ) -> Admission<'_> {
        if self.proven.load(Ordering::Acquire) {
            return Admission::Proven;
        }
        let last = self.last_failure.lock().await;
        if self.proven.load(Ordering::Acquire) {
            return Admission::Proven;
        }
        match &*last {
            Some(error) if self.generation().0 != generation.0 => Admission::Failed(error.clone()),
            Some(_) if is_fresh() => Admission::LeftAlone,
            _ => Admission::Permit(ConnectPermit {
                single_flight: self,
                last,
            }),
        }
    }

    /// An attempt failed that was [`Admission::Proven`]: callers that waited behind it need not try again.
    pub(super) fn record_failure(&self, error: &Arc<RemoteError>) {
        self.mark_unproven();
        // Locked: another attempt is under way, and its outcome is newer.
        if let Ok(mut last) = self.last_failure.try_lock() {
            *last = Some(error.clone());
            self.ended.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The host may not answer any more: the next caller has to try.
    pub(super) fn mark_unproven(&self) {
        self.proven.store(false, Ordering::Release);
    }
}

impl ConnectPermit<'_> {
    /// Records the outcome and lets the next caller in.
    pub(super) fn finish(mut self, error: Option<&Arc<RemoteError>>) {
        *self.last = error.cloned();
        self.single_flight
            .proven
            .store(error.is_none(), Ordering::Release);
        self.single_flight.ended.fetch_add(1, Ordering::AcqRel);
    }
}
