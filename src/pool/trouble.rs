//! One host that brings no answers: what that says of it, whom it is told, and who finds out whether it
//! is back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::EARLY;
use super::health::{CircuitBreaker, Standing};
use super::host_pool::HostPool;
use super::persistence::now;
use crate::remote::{RemoteError, Verdict};
use crate::transport::TransportError;

/// What has been said about failures since the host last did what was asked.
#[derive(Default)]
pub(super) struct Told {
    user: bool,
    /// That replies cannot be read: no spell of trouble, and so told once for each command.
    unreadable: bool,
    /// The failure that was taken into account last; those who shared it report it too.
    last: Option<Arc<RemoteError>>,
}

/// A host that sends nothing but what cannot be read, so many times in a row, has failed: the program
/// there is broken, not its knowledge of one path.
const UNREADABLE: u32 = 3;

/// The right to find out whether a host is back; ends when it is dropped.
pub(super) struct Probe(Arc<HostPool>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.health.breaker.lock().end_probe();
    }
}

impl HostPool {
    /// Whether the user has been told of the present trouble.
    pub(super) fn has_told(&self) -> bool {
        self.told.lock().user
    }

    /// The right to find out whether a half-open host is back, if nobody else is at it.
    pub(super) fn probe(self: &Arc<Self>) -> Option<Probe> {
        let mine = self.health.breaker.lock().start_probe(Instant::now());
        mine.then(|| Probe(self.clone()))
    }

    /// The same before its pause is over: once for each new command, and as [`HostPool::second_look`].
    pub(super) fn early_probe(self: &Arc<Self>) -> Option<Probe> {
        self.probe_early_if(|| self.takes_second_look() || self.may_probe_early())
    }

    /// The same once for each time that it fails after it has done what was asked: one line that broke hides no path.
    pub(super) fn second_look(self: &Arc<Self>) -> Option<Probe> {
        self.probe_early_if(|| self.takes_second_look())
    }

    fn probe_early_if(self: &Arc<Self>, may: impl FnOnce() -> bool) -> Option<Probe> {
        if self.standing() == Standing::Healthy || !may() {
            return None;
        }
        let mine = self.health.breaker.lock().start_early_probe();
        mine.then(|| {
            *self.probed_early.lock() = Some(Instant::now());
            Probe(self.clone())
        })
    }

    fn takes_second_look(&self) -> bool {
        self.worked_before.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody finds out before its pause is over.
    fn is_probed_early(&self) -> bool {
        self.health.breaker.lock().is_probed_early()
    }

    /// Whether somebody has just begun to: others may wait for what comes of it.
    pub(super) fn may_join_probe(&self) -> bool {
        let since = *self.probed_early.lock();
        self.is_probed_early() && since.is_some_and(|since| since.elapsed() < EARLY)
    }

    /// Takes a new command's right to do so. There is none where the login was refused: that does not mend
    /// itself, and each refusal is one that the host counts.
    fn may_probe_early(&self) -> bool {
        let last = self.told.lock().last.clone();
        let refused = last.is_some_and(|error| error.is_login_refused());
        !refused && self.may_probe_early.swap(false, Ordering::Relaxed)
    }

    /// Whether it has just failed, and nobody may find out more by now.
    pub(super) fn is_left_alone(&self) -> bool {
        self.standing() == Standing::JustFailed
            && !self.is_probed_early()
            && !self.may_probe_early()
    }

    /// Somebody new asks: who has been told nothing, and may find out whether the host is back.
    pub(super) fn new_command(&self) {
        self.may_probe_early.store(true, Ordering::Relaxed);
        let mut told = self.told.lock();
        (told.user, told.unreadable) = (false, false);
        drop(told);
        self.left_out.tell_again();
    }

    /// Whether it is in trouble, and that may be because it does not let us in.
    pub(super) fn may_refuse_login(&self) -> bool {
        let cause = self.told.lock().last.clone();
        self.standing() != Standing::Healthy && cause.is_none_or(|error| error.is_login_refused())
    }

    /// Whatever went wrong is forgotten, and whether there is a shell: it is tried as one never used.
    pub(super) fn forget_trouble(&self) {
        *self.health.breaker.lock() = CircuitBreaker::default();
        *self.told.lock() = Told::default();
        self.health.slow.store(false, Ordering::Relaxed);
        self.health.in_doubt.store(false, Ordering::Relaxed);
        self.unreadable.store(0, Ordering::Relaxed);
        self.is_without_answer.store(false, Ordering::Relaxed);
        self.single_flight.mark_unproven();
        self.shells.forget();
    }

    /// How long ago it failed last.
    pub(super) fn left_alone_for(&self) -> Duration {
        self.health.breaker.lock().left_alone_for(Instant::now())
    }

    /// That it is not asked, and why.
    pub(super) fn rests(&self) -> Arc<RemoteError> {
        Arc::new(RemoteError::Rests {
            host: self.host.to_string(),
            since: self.left_alone_for(),
            why: self.told.lock().last.clone(),
        })
    }

    /// That it is left alone, and why, where that has been seen here.
    pub(super) fn trouble(&self) -> Option<Arc<RemoteError>> {
        let is_known = self.told.lock().last.is_some();
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
        // That we use all its channels ourselves is no trouble with the host.
        let is_ours = matches!(
            **error,
            RemoteError::Rests { .. } | RemoteError::Busy { .. }
        );
        if verdict == Verdict::Refused || is_ours {
            return log::debug!("{error}");
        }
        if !matches!(verdict, Verdict::NotAsked | Verdict::Unreadable) {
            self.single_flight.mark_unproven();
        }
        let first = {
            let mut told = self.told.lock();
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
        let counts = self
            .health
            .breaker
            .lock()
            .failed(now(), self.persistence.random());
        if counts && is_kept {
            self.persistence.save(&self.health).await;
        }
    }

    /// It did what was asked. Whether later processes are still to be told.
    pub(super) fn succeeded(&self) -> bool {
        let news = self.health.breaker.lock().succeeded();
        self.unreadable.store(0, Ordering::Relaxed);
        self.worked_before.store(true, Ordering::Relaxed);
        if self.is_without_answer.swap(false, Ordering::Relaxed) || news {
            let mut told = self.told.lock();
            (told.user, told.last) = (false, None);
        }
        news
    }
}
