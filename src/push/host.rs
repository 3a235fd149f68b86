//! A push to one host: asks what it lacks, opens lanes, and begins again after a failure as long as that gets on.
//!
//! ```text
//! main lane    QueryValidPaths with lock, then everything small
//! large lanes  NARs from 1 MiB on, one behind the other
//! ```
//!
//! All lanes stay open until the end, since each keeps what it has locked or added from being collected. A lane that is
//! opened again locks everything again, and hears what is there by now.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::lane::{self, LaneEnd};
use super::nars::Nars;
use super::plan::Plan;
use super::refusal::{self, Refusal};
use super::schedule::{LaneId, Role, Schedule};
use super::{HostFault, PathFault, PushOptions, PushProgress, PushTotals};
use crate::pool::{HostId, Pool, WriteLease};
use crate::remote::{RemoteError, RemoteErrorKind, Version, lock_valid_paths};
use crate::transfer::progress::{TransferInfo, TransferProgress};

/// How often a host may fail without taking a single path in between.
const FAILURES_MAX: u32 = 3;

/// How long to wait after the first such failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How many paths may be refused one by one: each costs a connection.
const REFUSALS_MAX: usize = 100;

/// Lanes for large NARs where the round trip is short: `nix-store` unpacks in one thread.
const LARGE_LANES_NEAR: usize = 3;

/// One more for each so much of a round trip. OpenSSH moves 2 MiB a channel and round trip.
const ROUND_TRIP_OF_LANE: Duration = Duration::from_millis(25);

/// Most of them.
const LARGE_LANES_MAX: usize = 8;

/// What the hosts of a push share.
pub(super) struct Common {
    pub(super) pool: Arc<Pool>,
    pub(super) plan: Arc<Plan>,
    pub(super) nars: Nars,
    pub(super) options: PushOptions,
    pub(super) progress: PushProgress,
}

/// A push to one host.
pub(super) struct HostPush {
    common: Arc<Common>,
    pub(super) id: HostId,
    name: String,
    schedule: Mutex<Schedule>,
    /// The schedule has changed.
    changed: Notify,
    pub(super) wire: AtomicU64,
    /// In a row, without an acknowledgement in between.
    pub(super) failures: AtomicU32,
    is_old_version_told: AtomicBool,
    lanes: AtomicU64,
}

/// How a lane ended that ran in a task of its own.
struct Ended {
    id: LaneId,
    role: Role,
    /// When it was opened.
    since: Instant,
    /// The error when it could not be opened.
    end: Result<LaneEnd, Arc<RemoteError>>,
}

/// What has failed so far.
#[derive(Default)]
struct Failures {
    last: Option<Instant>,
    refusals: usize,
    /// Paths that were sent once more after a reference of theirs was gone.
    retried: HashSet<usize>,
}

impl HostPush {
    pub(super) fn new(common: Arc<Common>, id: HostId) -> Self {
        Self {
            name: common.pool.host(id).to_string(),
            schedule: Mutex::new(Schedule::new(common.plan.clone())),
            changed: Notify::new(),
            wire: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            is_old_version_told: AtomicBool::new(false),
            lanes: AtomicU64::new(0),
            common,
            id,
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.common.plan
    }

    pub(super) fn nars(&self) -> &Nars {
        &self.common.nars
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn totals(&self) -> &PushTotals {
        &self.common.progress.totals
    }

    pub(super) fn show(&self, info: &TransferInfo) -> Box<dyn TransferProgress> {
        self.common.progress.transfers.start(info)
    }

    pub(super) fn count_wire(&self, bytes: u64) {
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        let all = &self.totals().wire_bytes;
        all.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Old servers take less of what is known of a path.
    pub(super) fn warn_of_old_version(&self, version: Version) {
        if !self.is_old_version_told.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{}: its serve protocol is {version}, older than 2.5 (Nix 2.2): signatures and content addresses of what is sent are lost there",
                self.name
            );
        }
    }

    /// Changes the schedule; lanes look at it anew.
    pub(super) fn with_schedule<T>(&self, change: impl FnOnce(&mut Schedule) -> T) -> T {
        let changed = change(&mut self.schedule.lock());
        self.changed.notify_waiters();
        changed
    }

    /// The next path for a lane, once there is one; `None` when all is done.
    pub(super) async fn next(&self, lane: LaneId, role: Role) -> Option<usize> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut schedule = self.schedule.lock();
                if let Some(place) = schedule.next(lane, role) {
                    return Some(place);
                }
                if schedule.is_finished() {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// It cannot be sent from here, to whichever host.
    pub(super) fn fail_here(&self, place: usize, fault: PathFault) {
        let path = |place: usize| self.plan().info(place).path.clone();
        let consequence = |place, reference| PathFault::Reference {
            host: self.name.clone(),
            path: path(place),
            reference: path(reference),
        };
        self.with_schedule(|schedule| schedule.fail(place, Arc::new(fault), consequence));
    }

    /// Sends what the host lacks. Returns why the host was given up, if it was.
    pub(super) async fn run(self: &Arc<Self>) -> Option<HostFault> {
        let mut lanes = JoinSet::new();
        let fault = self.drive(&mut lanes).await;
        if fault.is_some() {
            self.with_schedule(Schedule::give_up);
        }
        fault
    }

    async fn drive(self: &Arc<Self>, lanes: &mut JoinSet<Ended>) -> Option<HostFault> {
        let lease = match self.ask().await {
            Ok(lease) => lease,
            Err(error) => return Some(HostFault::Remote(error)),
        };
        let missing = self.schedule.lock().missing();
        if self.common.options.dry_run || missing == [0, 0] {
            return None;
        }
        self.announce();
        let large = self.large_lanes(missing);
        self.with_schedule(|schedule| schedule.set_large_lanes(large));
        self.spawn(lanes, Role::Main, Some(lease), Duration::ZERO);
        for _ in 0..large {
            self.spawn(lanes, Role::Large, None, Duration::ZERO);
        }
        let mut failures = Failures::default();
        while let Some(ended) = lanes.join_next().await {
            if self.schedule.lock().is_finished() {
                return None;
            }
            // The panic hook has reported a panic.
            let Ok(ended) = ended else {
                return Some(HostFault::Stopped(self.name.clone()));
            };
            let role = ended.role;
            self.with_schedule(|schedule| schedule.release(ended.id));
            match self.settle(ended, &mut failures) {
                Ok(Some(pause)) if role == Role::Main || self.schedule.lock().has_large() => {
                    self.spawn(lanes, role, None, pause);
                }
                Ok(_) => self.with_schedule(Schedule::lose_large_lane),
                Err(fault) => return Some(fault),
            }
        }
        None
    }

    /// Says how much is to be sent.
    fn announce(&self) {
        let open = self.schedule.lock().open_places();
        let bytes = open.iter().map(|place| self.plan().info(*place).nar_size);
        let (paths, bytes) = (open.len(), bytes.sum());
        self.totals().plan(paths);
        self.common.progress.transfers.expected(paths as u64, bytes);
    }

    /// How many lanes large NARs are worth, besides the main one.
    fn large_lanes(&self, [small, large]: [usize; 2]) -> usize {
        let pool = &self.common.pool;
        let latency = pool.latency(self.id).unwrap_or_default();
        let by_latency = latency.as_millis() / ROUND_TRIP_OF_LANE.as_millis();
        let worth = LARGE_LANES_NEAR + usize::try_from(by_latency).unwrap_or(LARGE_LANES_MAX);
        // The main lane takes one where it has nothing else to do.
        let wanted = large.saturating_sub(usize::from(small == 0));
        let allowed = match self.common.options.in_background {
            true => pool.background_limit(self.id),
            false => pool.host(self.id).max_connections as usize,
        };
        let allowed = allowed.saturating_sub(1);
        wanted.min(worth).min(LARGE_LANES_MAX).min(allowed)
    }

    /// A connection that has locked what is there, which the schedule knows then.
    async fn ask(&self) -> Result<WriteLease, Arc<RemoteError>> {
        let paths = &self.plan().paths;
        let request = lock_valid_paths(paths);
        let mut lease = self.open(&[request]).await?;
        let valid = lease.finish_valid_paths(paths).await?;
        let valid: HashSet<_> = valid.into_iter().collect();
        self.with_schedule(|schedule| {
            let lost = schedule.set_valid(|place| valid.contains(&paths[place]));
            if lost > 0 {
                log::debug!("{}: {lost} paths were collected meanwhile", self.name);
            }
        });
        Ok(lease)
    }

    async fn open(&self, ahead: &[crate::remote::Request]) -> Result<WriteLease, Arc<RemoteError>> {
        let Common { pool, options, .. } = &*self.common;
        pool.lease_for_writing(self.id, options.in_background, ahead)
            .await
    }

    /// Runs a lane in a task of its own: on `lease`, or on a connection that is opened after `pause`.
    fn spawn(
        self: &Arc<Self>,
        lanes: &mut JoinSet<Ended>,
        role: Role,
        lease: Option<WriteLease>,
        pause: Duration,
    ) {
        let number = self.lanes.fetch_add(1, Ordering::Relaxed);
        let id = usize::try_from(number).unwrap_or(usize::MAX);
        let host = self.clone();
        let is_first = lease.is_some() || (role == Role::Large && pause.is_zero());
        lanes.spawn(async move {
            sleep(pause).await;
            let since = Instant::now();
            let lease = match lease {
                Some(lease) => Ok(lease),
                None if is_first => host.open(&[]).await,
                None => host.ask().await,
            };
            let end = match lease {
                Ok(lease) => Ok(lane::run(&host, id, role, lease).await),
                Err(error) => Err(error),
            };
            Ended {
                id,
                role,
                since,
                end,
            }
        });
    }

    /// What follows from the end of a lane: how long to wait before it is opened again, or `None` when it is not.
    fn settle(&self, ended: Ended, failures: &mut Failures) -> Result<Option<Duration>, HostFault> {
        let at_once = Some(Duration::from_millis(1));
        match ended.end {
            Ok(LaneEnd::Done) => Ok(None),
            Ok(LaneEnd::Withheld(place, fault)) => {
                self.fail_here(place, fault);
                Ok(at_once)
            }
            Ok(LaneEnd::Lost(error, first)) => {
                let refusal = refusal::read(&self.name, &error.stderr);
                match (refusal.filter(|_| is_end(&error)), first) {
                    (Some(refusal), Some(first)) => {
                        self.refused(first, refusal, failures)?;
                        Ok(at_once)
                    }
                    _ => self.pause(Arc::new(error), ended.since, failures).map(Some),
                }
            }
            // The host lets us in, and allows no more channels.
            Err(error) if ended.role == Role::Large => {
                log::debug!("{error}; going on with fewer channels");
                Ok(None)
            }
            Err(error) => self.pause(error, ended.since, failures).map(Some),
        }
    }

    /// How long to wait before the next connection, after one that was lost.
    fn pause(
        &self,
        error: Arc<RemoteError>,
        since: Instant,
        failures: &mut Failures,
    ) -> Result<Duration, HostFault> {
        // Those that were open at the same time are lost together, which counts once.
        let counts = failures.last.is_none_or(|last| since > last);
        if counts {
            failures.last = Some(Instant::now());
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let count = self.failures.load(Ordering::Relaxed);
        if count > FAILURES_MAX || !may_pass(&error) {
            return Err(HostFault::Remote(error));
        }
        if counts {
            log::warn!("{error}; going on from what {} has", self.name);
        }
        Ok(FIRST_PAUSE * 2_u32.pow(count.saturating_sub(1).min(FAILURES_MAX)))
    }

    /// The host has refused a path.
    fn refused(
        &self,
        place: usize,
        refusal: Refusal,
        failures: &mut Failures,
    ) -> Result<(), HostFault> {
        failures.refusals += 1;
        let (reason, hint, unsigned) = match refusal {
            Refusal::Host { reason, hint } => {
                let host = self.name.clone();
                return Err(HostFault::Refused { host, reason, hint });
            }
            // It may have been collected there; the next connection asks again what is there.
            Refusal::Reference { .. } if failures.retried.insert(place) => return Ok(()),
            Refusal::Reference { reason } => (reason, None, false),
            Refusal::Path {
                reason,
                hint,
                unsigned,
            } => (reason, hint, unsigned),
        };
        let fault = |place: usize| PathFault::Refused {
            host: self.name.clone(),
            path: self.plan().info(place).path.clone(),
            reason: reason.clone(),
            hint: hint.clone(),
        };
        if unsigned {
            let keys = self.keys_of(place);
            let open = self.look(Schedule::open_places);
            for other in open {
                let info = self.plan().info(other);
                if info.ca.is_none() && self.keys_of(other).is_subset(&keys) {
                    self.fail_here(other, fault(other));
                }
            }
        }
        self.fail_here(place, fault(place));
        if failures.refusals >= REFUSALS_MAX {
            let host = self.name.clone();
            return Err(HostFault::ManyRefusals { host, reason });
        }
        Ok(())
    }

    /// The names of the keys that have signed a path.
    fn keys_of(&self, place: usize) -> HashSet<&str> {
        let sigs = self.plan().signed_info(place).sigs.iter();
        sigs.filter_map(|sig| sig.split_once(':').map(|(name, _)| name))
            .collect()
    }

    /// Looks at the schedule.
    pub(super) fn look<T>(&self, at: impl FnOnce(&Schedule) -> T) -> T {
        at(&self.schedule.lock())
    }
}

/// Whether the host's program ended.
fn is_end(error: &RemoteError) -> bool {
    matches!(error.kind, RemoteErrorKind::Disconnected { .. })
}

/// Whether such a failure may be over with the next connection.
fn may_pass(error: &RemoteError) -> bool {
    matches!(
        error.kind,
        RemoteErrorKind::Disconnected { .. }
            | RemoteErrorKind::LinkDead { .. }
            | RemoteErrorKind::LinkStopped { .. }
            | RemoteErrorKind::NoServer { .. }
            | RemoteErrorKind::Transport(_)
    )
}
