//! A push to one host: asks what it lacks, opens lanes, and begins again after a failure as long as that gets on.
//!
//! ```text
//! main lane    QueryValidPaths with lock, then everything small
//! large lanes  NARs from 1 MiB on, one behind the other
//! block lane   what would take one channel long, or everything where it goes compressed: see `blocks`
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

use super::blocks::After;
use super::carrier::Carrier;
use super::failures::{Ended, Failures};
use super::lane::{self, LaneEnd};
use super::schedule::{LaneId, Role, Schedule};
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

/// How often it is looked how fast bytes go.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

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
        let mut failures = Failures::default();
        let mut lease = match self.ask().await {
            Ok(lease) => lease,
            Err(error) => return Some(HostFault::Remote(error)),
        };
        if self.common.options.dry_run || self.look(Schedule::missing) == [0, 0] {
            return None;
        }
        self.announce();
        loop {
            self.start(lanes, lease);
            if let Some(fault) = self.until_finished(lanes, &mut failures).await {
                return Some(fault);
            }
            if !self.has_used_blocks() {
                return None;
            }
            // What came by a shell counts once the host's own program says that it is there.
            lease = match self.ask_after_all(&mut failures).await {
                Ok(lease) => lease,
                Err(fault) => return Some(fault),
            };
            if self.look(Schedule::missing) == [0, 0] {
                return None;
            }
            self.without_blocks("what it took by a shell is not there");
            // What the others hold is held by the new connection.
            lanes.shutdown().await;
        }
    }

    /// Opens lanes for what is missing.
    fn start(self: &Arc<Self>, lanes: &mut JoinSet<Ended>, lease: WriteLease) {
        let most = self.channels_max();
        let compress = self.compress_at_once().filter(|_| most > 0);
        if compress.is_some() {
            self.set_compress(compress);
            let blocks = self.spawn_blocks(lanes, self.pipes(most - 1), Duration::ZERO);
            self.with_schedule(|schedule| schedule.leave_all_to(blocks));
            self.spawn(lanes, Role::Main, Some(lease), Duration::ZERO);
            return;
        }
        let pipes = self.pipes(most.saturating_sub(1));
        let wide = self.wide(pipes);
        let kept = match (wide.is_empty(), self.watches_pace()) {
            (false, _) => pipes + 1,
            // Everything may have to go by one more.
            (true, true) if most > 1 => 1,
            (true, _) => 0,
        };
        let [small, large] = self.look(Schedule::missing);
        let large = self.large_lanes([small, large.saturating_sub(wide.len())], most - kept);
        if !wide.is_empty() {
            self.with_schedule(|schedule| schedule.leave_wide(wide));
            self.spawn_blocks(lanes, pipes, Duration::ZERO);
        }
        self.spawn_large(lanes, large);
        self.spawn(lanes, Role::Main, Some(lease), Duration::ZERO);
    }

    fn spawn_large(self: &Arc<Self>, lanes: &mut JoinSet<Ended>, count: usize) {
        self.with_schedule(|schedule| schedule.set_large_lanes(count));
        for _ in 0..count {
            self.spawn(lanes, Role::Large, None, Duration::ZERO);
        }
    }

    /// Sends until nothing is left. Returns why the host is given up, if it is.
    async fn until_finished(
        self: &Arc<Self>,
        lanes: &mut JoinSet<Ended>,
        failures: &mut Failures,
    ) -> Option<HostFault> {
        loop {
            let ended = tokio::select! {
                ended = lanes.join_next() => ended?,
                () = sleep(LOOK_INTERVAL), if self.watches_pace() => {
                    if self.look_at_pace() == Some(true) {
                        let others = self.look(Schedule::large_lanes);
                        let most = self.channels_max().saturating_sub(others + 1);
                        let pipes = self.pipes(most);
                        self.spawn_blocks(lanes, pipes, Duration::ZERO);
                    }
                    continue;
                }
            };
            if self.look(Schedule::is_finished) {
                return None;
            }
            // The panic hook has reported a panic.
            let Ok(ended) = ended else {
                return Some(HostFault::Stopped(self.name().to_owned()));
            };
            let role = ended.role;
            self.with_schedule(|schedule| schedule.release(ended.id));
            if role == Role::Blocks {
                match self.blocks_ended(ended, failures) {
                    Ok(After::Again(pause)) => {
                        let others = self.look(Schedule::large_lanes);
                        let most = self.channels_max().saturating_sub(others + 1);
                        self.spawn_blocks(lanes, self.pipes(most), pause);
                    }
                    Ok(After::Never) if self.look(Schedule::large_lanes) == 0 => {
                        let missing = self.look(Schedule::missing);
                        let large = self.large_lanes(missing, self.channels_max());
                        self.spawn_large(lanes, large);
                    }
                    Ok(After::Never) => {}
                    Err(fault) => return Some(fault),
                }
                continue;
            }
            match failures.settle(self, ended) {
                Ok(Some(pause)) if role == Role::Main || self.look(Schedule::has_large) => {
                    self.spawn(lanes, role, None, pause);
                }
                Ok(_) => self.with_schedule(Schedule::lose_large_lane),
                Err(fault) => return Some(fault),
            }
        }
    }

    /// Says how much is to be sent.
    fn announce(&self) {
        let open = self.look(Schedule::open_places);
        let bytes = open.iter().map(|place| self.plan().info(*place).nar_size);
        let bytes = bytes.sum();
        self.plan_blocks(bytes);
        let (paths, bytes) = self.totals().plan(open.len() as u64, bytes);
        self.common.progress.transfers.expected(paths, bytes);
    }

    /// How many channels there may be besides that of the main lane.
    fn channels_max(&self) -> usize {
        let pool = &self.common.pool;
        let allowed = match self.common.options.in_background {
            true => pool.background_limit(self.id),
            false => pool.host(self.id).max_connections as usize,
        };
        allowed.saturating_sub(1)
    }

    /// How many lanes so many small and large NARs are worth, besides the main one; at most `most`.
    fn large_lanes(&self, [small, large]: [usize; 2], most: usize) -> usize {
        let pool = &self.common.pool;
        let latency = pool.latency(self.id).unwrap_or_default();
        let by_latency = latency.as_millis() / ROUND_TRIP_OF_LANE.as_millis();
        let worth = LARGE_LANES_NEAR + usize::try_from(by_latency).unwrap_or(LARGE_LANES_MAX);
        // The main lane takes one where it has nothing else to do.
        let wanted = large.saturating_sub(usize::from(small == 0));
        wanted.min(worth).min(LARGE_LANES_MAX).min(most)
    }

    /// A connection that has locked what is there, which the schedule knows then.
    async fn ask(&self) -> Result<WriteLease, Arc<RemoteError>> {
        self.asks_what_is_there();
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
                log::debug!("{}: {lost} paths are not there any more", self.name());
            }
        });
        self.agreed_on(lease.version());
        Ok(lease)
    }

    /// The same once nothing is left to be sent, also where connections fail.
    async fn ask_after_all(&self, failures: &mut Failures) -> Result<WriteLease, HostFault> {
        loop {
            let since = Instant::now();
            match self.ask().await {
                Ok(lease) => return Ok(lease),
                Err(error) => sleep(failures.pause(self, error, since)?).await,
            }
        }
    }

    async fn open(&self, ahead: &[Request]) -> Result<WriteLease, Arc<RemoteError>> {
        let Common { pool, options, .. } = &*self.common;
        pool.lease_for_writing(self.id, options.in_background, ahead)
            .await
    }

    fn new_lane(&self) -> LaneId {
        let number = self.lanes.fetch_add(1, Ordering::Relaxed);
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// Runs a lane that takes blocks in a task of its own, over so many channels, on a connection that is opened after
    /// `pause`.
    fn spawn_blocks(
        self: &Arc<Self>,
        lanes: &mut JoinSet<Ended>,
        pipes: usize,
        pause: Duration,
    ) -> LaneId {
        let id = self.new_lane();
        self.opens_blocks(id);
        let host = self.clone();
        lanes.spawn(async move {
            sleep(pause).await;
            let since = Instant::now();
            let end = match host.open_blocks(id, pipes).await {
                Ok(Ok((lease, version))) => {
                    let carrier = Carrier::of_blocks(lease, version);
                    Ok(lane::run(&host, id, Role::Blocks, carrier).await)
                }
                Ok(Err(why)) => Ok(LaneEnd::Impossible(why)),
                Err(error) => Err(error),
            };
            Ended {
                id,
                role: Role::Blocks,
                since,
                end,
            }
        });
        id
    }

    /// Runs a lane in a task of its own: on `lease`, or on a connection that is opened after `pause`.
    fn spawn(
        self: &Arc<Self>,
        lanes: &mut JoinSet<Ended>,
        role: Role,
        lease: Option<WriteLease>,
        pause: Duration,
    ) {
        let id = self.new_lane();
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
                Ok(lease) => Ok(lane::run(&host, id, role, lease.into()).await),
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
            compressed: self.compressed(),
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
