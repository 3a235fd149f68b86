//! Failures of one host: what they mean for it, who learns of them, and who probes whether it is back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::HostPool;
use super::reports::FailureReports;
use crate::pool::health::{CircuitBreaker, Now, Probe, Standing};
use crate::remote::{RemoteError, RemoteErrorKind, Verdict};
use crate::transport::TransportErrorKind;

/// A host has failed when it sends nothing except unreadable replies, so many in a row: the program there is
/// broken, not its knowledge of one path.
const UNREADABLE_REPLIES_MAX: u32 = 3;

/// How long a question waits for hosts that it probes before their pause is over. A login over a far
/// link takes two seconds; what comes later is used all the same.
pub(in crate::pool) const EARLY_PROBE_TIMEOUT: Duration = Duration::from_secs(3);

impl HostPool {
    /// Whether the user knows of the present failure.
    pub(in crate::pool) fn is_failure_reported(&self) -> bool {
        self.failure_reports.lock().user
    }

    /// The right to probe the host before its pause is over: once for each new command, and as
    /// [`HostPool::retry_probe`].
    pub(in crate::pool) fn early_probe(self: &Arc<Self>) -> Option<Probe> {
        self.early_probe_if(|| self.take_retry() || self.take_command_probe())
    }

    /// The same once for each failure of a host that had worked before: one broken line hides no path.
    pub(in crate::pool) fn retry_probe(self: &Arc<Self>) -> Option<Probe> {
        self.early_probe_if(|| self.take_retry())
    }

    fn early_probe_if(&self, may: impl FnOnce() -> bool) -> Option<Probe> {
        if self.standing() == Standing::Healthy || !may() {
            return None;
        }
        // Where another question probes it already, this one may join that probe.
        *self.may_join_since.lock() = Some(Instant::now());
        self.health.early_probe()
    }

    fn take_retry(&self) -> bool {
        self.worked_before.swap(false, Ordering::Relaxed)
    }

    /// Whether it is being probed before its pause is over.
    fn is_probed_early(&self) -> bool {
        self.health.breaker.lock().is_probed_early()
    }

    /// Whether it is being probed, and the right to do so early was taken a moment ago: others may wait for the outcome.
    pub(in crate::pool) fn may_join_probe(&self) -> bool {
        let since = *self.may_join_since.lock();
        let is_probed = self.health.breaker.lock().is_probed();
        is_probed && since.is_some_and(|since| since.elapsed() < EARLY_PROBE_TIMEOUT)
    }

    /// Takes a new command's right to an early probe. There is none where the login was refused: that does
    /// not pass by itself, and the host counts each refusal.
    fn take_command_probe(&self) -> bool {
        let last = self.failure_reports.lock().last.clone();
        let refused = last.is_some_and(|error| error.is_login_refused());
        !refused && self.may_probe_early.swap(false, Ordering::Relaxed)
    }

    /// Whether it has just failed, and may not be probed now.
    pub(super) fn is_left_alone(&self) -> bool {
        self.standing() == Standing::JustFailed
            && !self.is_probed_early()
            && !self.take_command_probe()
    }

    /// A new command asks: failures are reported to it again, and it may probe the host early.
    pub(in crate::pool) fn new_command(&self) {
        self.may_probe_early.store(true, Ordering::Relaxed);
        let mut reports = self.failure_reports.lock();
        (reports.user, reports.unreadable) = (false, false);
        drop(reports);
        self.skipped_path_reports.reset();
    }

    /// Whether it is failing, and that may be because it does not let us in.
    pub(in crate::pool) fn may_refuse_login(&self) -> bool {
        let cause = self.failure_reports.lock().last.clone();
        self.standing() != Standing::Healthy && cause.is_none_or(|error| error.is_login_refused())
    }

    /// Forgets all failures, and whether there is a shell: it is used as a host that never failed.
    pub(in crate::pool) fn forget_failures(&self) {
        *self.health.breaker.lock() = CircuitBreaker::default();
        *self.failure_reports.lock() = FailureReports::default();
        self.health.slow.store(false, Ordering::Relaxed);
        self.health.in_doubt.store(false, Ordering::Relaxed);
        self.unreadable_replies.store(0, Ordering::Relaxed);
        self.is_without_answer.store(false, Ordering::Relaxed);
        self.single_flight.mark_unproven();
        self.shells.forget();
    }

    /// How long ago it failed last.
    pub(in crate::pool) fn since_failure(&self) -> Duration {
        self.health.breaker.lock().since_failure(Instant::now())
    }

    /// Whether it has failed after that moment, and did not answer since.
    pub(super) fn has_failed_since(&self, moment: Instant) -> bool {
        self.standing() != Standing::Healthy && self.since_failure() < moment.elapsed()
    }

    /// That it is not asked, and why.
    pub(in crate::pool) fn resting_error(&self) -> Arc<RemoteError> {
        let kind = RemoteErrorKind::Resting {
            since: self.since_failure(),
            why: self.failure_reports.lock().last.clone(),
        };
        Arc::new(RemoteError::new(&self.host, kind))
    }

    /// That it is left alone, and why, where this process has seen it fail.
    pub(in crate::pool) fn present_failure(&self) -> Option<Arc<RemoteError>> {
        let is_known = self.failure_reports.lock().last.is_some();
        (is_known && self.standing() != Standing::Healthy).then(|| self.resting_error())
    }

    /// Whether it gave no answer when it was asked last, or would not be asked now.
    pub(in crate::pool) fn is_without_answer(&self) -> bool {
        self.standing() != Standing::Healthy || self.is_without_answer.load(Ordering::Relaxed)
    }

    /// What it says of this host that an exchange failed so.
    pub(super) fn verdict(&self, error: &RemoteError) -> Verdict {
        match error.verdict() {
            Verdict::Refused
                if matches!(&error.kind, RemoteErrorKind::Transport(error)
                    if matches!(error.kind, TransportErrorKind::SessionRefused))
                    && !self.was_connected.load(Ordering::Relaxed) =>
            {
                Verdict::Failed
            }
            Verdict::Unreadable
                if self.unreadable_replies.load(Ordering::Relaxed) >= UNREADABLE_REPLIES_MAX =>
            {
                Verdict::Failed
            }
            verdict => verdict,
        }
    }

    /// Takes a failed exchange into account: see [`Verdict`] for what follows.
    pub(in crate::pool) async fn record_failure(&self, error: &Arc<RemoteError>) {
        match error.verdict() {
            // The end of a connection says nothing about what is asked on the next one.
            Verdict::Absent => return log::debug!("{error}"),
            Verdict::Unreadable => {
                self.unreadable_replies.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.is_without_answer.store(true, Ordering::Relaxed);
        let verdict = self.verdict(error);
        // That we use all its channels ourselves is no failure of the host.
        let is_ours = matches!(
            error.kind,
            RemoteErrorKind::Resting { .. } | RemoteErrorKind::Busy { .. }
        );
        if verdict == Verdict::Refused || is_ours {
            return log::debug!("{error}");
        }
        if !matches!(verdict, Verdict::NotAsked | Verdict::Unreadable) {
            self.single_flight.mark_unproven();
        }
        let is_first = {
            let mut reports = self.failure_reports.lock();
            if reports
                .last
                .as_ref()
                .is_some_and(|last| Arc::ptr_eq(last, error))
            {
                return;
            }
            reports.last = Some(error.clone());
            let is_reported = match verdict {
                Verdict::Unreadable => &mut reports.unreadable,
                _ => &mut reports.user,
            };
            !std::mem::replace(is_reported, true)
        };
        if is_first {
            (self.notify)(&**error);
        } else {
            log::debug!("{error}");
        }
        let is_saved = match verdict {
            Verdict::Failed => true,
            // Later processes must not hold it against the host. A link that this machine has
            // stopped is made anew at once.
            Verdict::Local if !matches!(error.kind, RemoteErrorKind::LinkStopped { .. }) => false,
            _ => return,
        };
        let random = self.persistence.random();
        let counts = self
            .health
            .breaker
            .lock()
            .record_failure(Now::read(), random);
        if counts && is_saved {
            self.persistence.save(&self.health).await;
        }
    }

    /// The host did what was asked. Whether that has to be saved for later processes.
    pub(super) fn record_success(&self) -> bool {
        let had_failures = self.health.breaker.lock().record_success();
        self.unreadable_replies.store(0, Ordering::Relaxed);
        self.worked_before.store(true, Ordering::Relaxed);
        if self.is_without_answer.swap(false, Ordering::Relaxed) || had_failures {
            let mut reports = self.failure_reports.lock();
            (reports.user, reports.last) = (false, None);
        }
        had_failures
    }
}
