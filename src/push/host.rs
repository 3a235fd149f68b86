//! A push to one host: asks what it lacks, opens lanes, and begins again after a failure as long as that gets on.
//!
//! ```text
//! main lane    QueryValidPaths with lock, then everything small
//! large lanes  NARs from 1 MiB on, one behind the other
//! ```
//!
//! All lanes stay open until the end, since each keeps what it has locked or added from being collected. A lane that is
//! opened again locks everything again, and hears what is there by now.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::failures::{Ended, Failures};
use super::lane;
use super::schedule::{Role, Schedule};
use super::target::{Common, Target};
use super::{FailedPath, HostFault, HostReport};
use crate::pool::WriteLease;
use crate::remote::{RemoteError, Request, lock_valid_paths};

/// Lanes for large NARs where the round trip is short: `nix-store` unpacks in one thread.
const LARGE_LANES_NEAR: usize = 3;

/// One more for each so much of a round trip. OpenSSH moves 2 MiB a channel and round trip.
const ROUND_TRIP_OF_LANE: Duration = Duration::from_millis(25);

/// Most of them.
const LARGE_LANES_MAX: usize = 8;

impl Target {
    /// Sends what the host lacks. Returns why the host was given up, if it was.
    pub(super) async fn run(self: &Arc<Self>) -> Option<HostFault> {
        let mut lanes = JoinSet::new();
        let fault = self.drive(&mut lanes).await;
        if fault.is_some() {
            self.with_schedule(Schedule::give_up);
            let lacking: Vec<_> = self.look(|schedule| schedule.lacking().collect());
            lacking
                .into_iter()
                .for_each(|place| self.nars().not_wanted(place));
        }
        fault
    }

    async fn drive(self: &Arc<Self>, lanes: &mut JoinSet<Ended>) -> Option<HostFault> {
        let lease = match self.ask().await {
            Ok(lease) => lease,
            Err(error) => return Some(HostFault::Remote(error)),
        };
        let missing = self.look(Schedule::missing);
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
            if self.look(Schedule::is_finished) {
                return None;
            }
            // The panic hook has reported a panic.
            let Ok(ended) = ended else {
                return Some(HostFault::Stopped(self.name().to_owned()));
            };
            let role = ended.role;
            self.with_schedule(|schedule| schedule.release(ended.id));
            match failures.settle(self, ended) {
                Ok(Some(pause)) if role == Role::Main || self.look(Schedule::has_large) => {
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
        let open = self.look(Schedule::open_places);
        let bytes = open.iter().map(|place| self.plan().info(*place).nar_size);
        let (paths, bytes) = self.totals().plan(open.len() as u64, bytes.sum());
        self.common.progress.transfers.expected(paths, bytes);
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
        if !self.was_asked.swap(true, Ordering::Relaxed) {
            let places = (0..paths.len()).filter(|place| valid.contains(&paths[*place]));
            places.for_each(|place| self.nars().not_wanted(place));
        }
        self.with_schedule(|schedule| {
            let lost = schedule.set_valid(|place| valid.contains(&paths[place]));
            if lost > 0 {
                log::debug!("{}: {lost} paths were collected meanwhile", self.name());
            }
        });
        Ok(lease)
    }

    async fn open(&self, ahead: &[Request]) -> Result<WriteLease, Arc<RemoteError>> {
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

    /// What became of it.
    pub(super) fn report(&self, error: Option<HostFault>) -> HostReport {
        let plan = self.plan();
        let path = |place: usize| plan.info(place).path.clone();
        let bytes = |place: usize| plan.info(place).nar_size;
        self.look(|schedule| HostReport {
            host: self.id,
            name: self.name().to_owned(),
            there: schedule.there(),
            sent: schedule.sent_places().count(),
            sent_bytes: schedule.sent_places().map(bytes).sum(),
            wire_bytes: self.wire.load(Ordering::Relaxed),
            missing: schedule.lacking().map(path).collect(),
            missing_bytes: schedule.lacking().map(bytes).sum(),
            failed: schedule
                .faults()
                .iter()
                .map(|(place, fault)| FailedPath {
                    path: path(*place),
                    fault: fault.clone(),
                })
                .collect(),
            error,
        })
    }
}
