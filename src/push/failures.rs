//! What follows when a lane to a host ends: the path at fault fails, the lane is opened again, or the host is given up.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::LaneEnd;
use super::refusal::{self, Refusal};
use super::schedule::{LaneId, Role, Schedule};
use super::target::Target;
use super::{HostFault, PathFault};
use crate::pool::exponential;
use crate::remote::{RemoteError, RemoteErrorKind};

/// How often a host may fail without taking a single path in between.
const FAILURES_MAX: u32 = 3;

/// How long to wait after the first such failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How many paths may be refused one by one: each costs a connection.
const REFUSALS_MAX: usize = 100;

/// How a lane ended that ran in a task of its own.
pub(super) struct Ended {
    pub(super) id: LaneId,
    pub(super) role: Role,
    /// When it was opened.
    pub(super) since: Instant,
    /// The error when it could not be opened.
    pub(super) end: Result<LaneEnd, Arc<RemoteError>>,
}

/// What has failed so far.
#[derive(Default)]
pub(super) struct Failures {
    last: Option<Instant>,
    refusals: usize,
    /// Paths that were sent once more after a reference of theirs was gone.
    retried: HashSet<usize>,
}

impl Failures {
    /// What follows from the end of a lane: how long to wait before it is opened again, or `None` when it is not.
    pub(super) fn settle(
        &mut self,
        target: &Target,
        ended: Ended,
    ) -> Result<Option<Duration>, HostFault> {
        let at_once = Some(Duration::from_millis(1));
        match ended.end {
            Ok(LaneEnd::Done | LaneEnd::Impossible(_)) => Ok(None),
            // The lane that takes blocks has all the others.
            Ok(LaneEnd::Left) => Ok(at_once.filter(|_| ended.role == Role::Main)),
            Ok(LaneEnd::Withheld(place, fault)) => {
                target.fail_here(place, fault);
                Ok(at_once)
            }
            Ok(LaneEnd::Lost(error, first)) => {
                let refusal = refusal::read(target.name(), &error.stderr);
                match (refusal.filter(|_| is_end(&error)), first) {
                    (Some(refusal), Some(first)) => {
                        self.refused(target, first, refusal)?;
                        Ok(at_once)
                    }
                    _ => self.pause(target, Arc::new(error), ended.since).map(Some),
                }
            }
            // The host lets us in, and allows no more channels.
            Err(error) if ended.role == Role::Large => {
                log::debug!("{error}; going on with fewer channels");
                Ok(None)
            }
            Err(error) => self.pause(target, error, ended.since).map(Some),
        }
    }

    /// How long to wait before the next connection, after one that was lost.
    pub(super) fn pause(
        &mut self,
        target: &Target,
        error: Arc<RemoteError>,
        since: Instant,
    ) -> Result<Duration, HostFault> {
        // Those that were open at the same time are lost together, which counts once.
        let counts = self.last.is_none_or(|last| since > last);
        if counts {
            self.last = Some(Instant::now());
            target.failures.fetch_add(1, Ordering::Relaxed);
        }
        let count = target.failures.load(Ordering::Relaxed);
        if count > FAILURES_MAX || !may_pass(&error) {
            return Err(HostFault::Remote(error));
        }
        if counts {
            log::warn!("{error}; going on from what {} has", target.name());
        }
        Ok(exponential(FIRST_PAUSE, Duration::MAX, count))
    }

    /// The host has refused a path.
    fn refused(
        &mut self,
        target: &Target,
        place: usize,
        refusal: Refusal,
    ) -> Result<(), HostFault> {
        self.refusals += 1;
        let (reason, hint, unsigned) = match refusal {
            Refusal::Host { reason, hint } => {
                let host = target.name().to_owned();
                return Err(HostFault::Refused { host, reason, hint });
            }
            // It may have been collected there; the next connection asks again what is there.
            Refusal::Reference { .. } if self.retried.insert(place) => return Ok(()),
            Refusal::Reference { reason } => (reason, None, false),
            Refusal::Path {
                reason,
                hint,
                unsigned,
            } => (reason, hint, unsigned),
        };
        let fault = |place: usize| PathFault::Refused {
            host: target.name().to_owned(),
            path: target.plan().info(place).path.clone(),
            reason: reason.clone(),
            hint: hint.clone(),
        };
        if unsigned {
            let keys = target.keys_of(place);
            let open = target.look(Schedule::open_places);
            for other in open {
                let info = target.plan().info(other);
                if info.ca.is_none() && target.keys_of(other).is_subset(&keys) {
                    target.fail_here(other, fault(other));
                }
            }
        }
        target.fail_here(place, fault(place));
        if self.refusals >= REFUSALS_MAX {
            let host = target.name().to_owned();
            return Err(HostFault::ManyRefusals { host, reason });
        }
        Ok(())
    }
}

/// Whether the host's program ended since it refuses something.
pub(super) fn is_refusal(host: &str, error: &RemoteError) -> bool {
    is_end(error) && refusal::read(host, &error.stderr).is_some()
}

/// Whether the host's program ended.
fn is_end(error: &RemoteError) -> bool {
    matches!(error.kind, RemoteErrorKind::Disconnected { .. })
}

/// Whether such a failure may be over with the next connection.
pub(super) fn may_pass(error: &RemoteError) -> bool {
    matches!(
        error.kind,
        RemoteErrorKind::Disconnected { .. }
            | RemoteErrorKind::LinkDead { .. }
            | RemoteErrorKind::LinkStopped { .. }
            | RemoteErrorKind::NoServer { .. }
            | RemoteErrorKind::Transport(_)
    )
}
