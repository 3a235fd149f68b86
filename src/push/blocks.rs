//! The lane to a host that takes blocks through a shell (see `remote/blocks`): when there is one, for what, and what follows
//! when it ends.
//!
//! | when | what goes by it |
//! | --- | --- |
//! | some NARs would take one channel long | those, over several channels |
//! | the link is slow, or `compression=zstd` | everything, compressed where that makes it smaller |
//!
//! A host that has no shell, or whose shell does not do what it should, gets everything by connections of their own. So does
//! a path that was refused by way of a shell: only what a connection says of it counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::HostFault;
use super::failures::{Ended, Failures, is_refusal, may_pass};
use super::lane::LaneEnd;
use super::pace::Progress;
use super::schedule::{LARGE, LaneId, Schedule};
use super::target::Target;
use crate::config::host::CompressionMode;
use crate::pool::BlockLease;
use crate::remote::{Compress, RemoteError, Version};

/// What OpenSSH moves a channel and round trip, in bytes.
const WINDOW: f64 = 2.0 * 1024.0 * 1024.0;

/// About as many bytes a second as one `nix-store` takes.
const RATE_OF_STORE: f64 = 128.0 * 1024.0 * 1024.0;

/// Most channels beside the one with the replies.
const PIPES_MAX: usize = 6;

/// With a shorter round trip one channel is wide enough.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(15);

/// How long a NAR takes on one channel before more of them pay, in seconds: it takes some round trips to open them.
const LONG: f64 = 1.0;

/// After so many paths that were refused by way of a shell there is none any more.
const REFUSALS_MAX: usize = 3;

/// What follows when it has ended.
pub(super) enum After {
    /// It is opened again after that time.
    Again(Duration),
    /// There is none any more.
    Never,
}

impl Target {
    /// The host is being asked what it has.
    pub(super) fn asks_what_is_there(&self) {
        self.blocks.lock().is_used = false;
    }

    /// The version that the host has agreed on.
    pub(super) fn agreed_on(&self, version: Version) {
        self.blocks.lock().version = Some(version);
    }

    /// So many bytes of NARs are to be sent.
    pub(super) fn plan_blocks(&self, planned: u64) {
        self.blocks.lock().planned = planned;
    }

    /// Whether the host has taken something by a shell since it was asked. Then what it has counts once it was asked again.
    pub(super) fn has_used_blocks(&self) -> bool {
        self.blocks.lock().is_used
    }

    /// A path was acknowledged on the lane that takes blocks.
    pub(super) fn acknowledged_blocks(&self) {
        let mut blocks = self.blocks.lock();
        blocks.acknowledged += 1;
        blocks.is_used = true;
    }

    fn may_have_blocks(&self) -> bool {
        let blocks = self.blocks.lock();
        let is_new = |version| version >= Version::WITH_ADD_TO_STORE_NAR;
        !blocks.is_off && blocks.version.is_some_and(is_new)
    }

    /// Whether blocks may come to be compressed, as far as is known.
    pub(super) fn may_compress(&self) -> bool {
        self.may_have_blocks() && self.common.pool.may_compress_by_shell(self.id)
    }

    /// How everything is compressed from the beginning, if it is.
    pub(super) fn compress_at_once(&self) -> Option<Compress> {
        if !self.may_compress() {
            return None;
        }
        let pool = &self.common.pool;
        let compression = pool.host(self.id).compression;
        let link_rate = match compression.mode {
            CompressionMode::None => return None,
            CompressionMode::Zstd => None,
            CompressionMode::Auto => Some(pool.slow_upload(self.id)?),
        };
        Some(Compress {
            level: compression.level,
            link_rate,
        })
    }

    /// How many channels carry blocks beside the one with the replies, of at most so many; 0 when that one carries them.
    pub(super) fn pipes(&self, most: usize) -> usize {
        let latency = self.common.pool.latency(self.id).unwrap_or_default();
        if latency < ROUND_TRIP_MIN {
            return 0;
        }
        let wanted = (RATE_OF_STORE * latency.as_secs_f64() / WINDOW).ceil() as usize;
        match wanted.clamp(2, PIPES_MAX).min(most) {
            1 => 0,
            pipes => pipes,
        }
    }

    /// What is to go over so many channels at the same time: the largest that are missing, as long as each of them is there
    /// sooner than over a channel of its own.
    pub(super) fn wide(&self, pipes: usize) -> BTreeSet<usize> {
        let latency = self.common.pool.latency(self.id).unwrap_or_default();
        if pipes < 2 || !self.may_have_blocks() || !self.common.pool.may_have_shell(self.id) {
            return BTreeSet::new();
        }
        let size = |place: usize| self.plan().info(place).nar_size;
        let mut places = self.look(Schedule::open_places);
        places.sort_by_key(|place| u64::MAX - size(*place));
        let of_channel = WINDOW / latency.as_secs_f64();
        let of_all = (of_channel * pipes as f64).min(RATE_OF_STORE);
        let mut before = 0;
        let is_wide = |place: &usize| {
            let alone = size(*place) as f64 / of_channel;
            before += size(*place);
            alone >= LONG && size(*place) >= LARGE && before as f64 / of_all <= alone
        };
        places.into_iter().take_while(is_wide).collect()
    }

    /// That lane is being opened.
    pub(super) fn opens_blocks(&self, lane: LaneId) {
        let mut blocks = self.blocks.lock();
        blocks.lane = Some(lane);
        blocks.acknowledged = 0;
    }

    /// Opens a connection that takes blocks; why there is none.
    pub(super) async fn open_blocks(
        &self,
        lane: LaneId,
        pipes: usize,
    ) -> Result<Result<(BlockLease, Version), &'static str>, Arc<RemoteError>> {
        let Some(version) = self.blocks.lock().version else {
            return Ok(Err("it was not asked yet"));
        };
        let pool = &self.common.pool;
        let in_background = self.common.options.in_background;
        let lease = pool.lease_blocks(self.id, in_background, version, pipes);
        let Some(lease) = lease.await? else {
            return Ok(Err("its account has no shell with head and zstd"));
        };
        if self.compress().is_some() {
            if !lease.has_zstd() {
                return Ok(Err("its account has no zstd"));
            }
            self.with_schedule(|schedule| schedule.leave_all_to(lane));
        }
        Ok(Ok((lease, version)))
    }

    /// Whether it is looked now and then how fast bytes go.
    pub(super) fn watches_pace(&self) -> bool {
        let mode = self.common.pool.host(self.id).compression.mode;
        mode == CompressionMode::Auto && self.compress().is_none() && self.may_compress()
    }

    /// Whether the link is found slow; then everything goes compressed as soon as there is a lane for it, which is to be opened
    /// if `Some(true)` is returned.
    pub(super) fn look_at_pace(&self) -> Option<bool> {
        let wire = self.wire.load(Ordering::Relaxed);
        let paths = self.look(|schedule| schedule.sent_places().count() as u64);
        let (rate, lane) = {
            let mut blocks = self.blocks.lock();
            let left = blocks.planned.saturating_sub(wire);
            let progress = Progress { wire, paths, left };
            let rate = blocks.pace.slow_rate(Instant::now(), progress)?;
            (rate, blocks.lane)
        };
        log::debug!(
            "{}: {rate} bytes a second go, so they are compressed from now on",
            self.name()
        );
        let pool = &self.common.pool;
        pool.record_slow_upload(self.id, rate);
        self.set_compress(Some(Compress {
            level: pool.host(self.id).compression.level,
            link_rate: Some(rate),
        }));
        // One that is being opened looks by itself.
        if let Some(lane) = lane {
            self.with_schedule(|schedule| schedule.leave_all_to(lane));
        }
        Some(lane.is_none())
    }

    /// What follows from the end of the lane that takes blocks.
    pub(super) fn blocks_ended(
        &self,
        ended: Ended,
        failures: &mut Failures,
    ) -> Result<After, HostFault> {
        let at_once = After::Again(Duration::from_millis(1));
        match ended.end {
            Ok(LaneEnd::Done | LaneEnd::Left) => Ok(at_once),
            Ok(LaneEnd::Withheld(place, fault)) => {
                self.fail_here(place, fault);
                Ok(at_once)
            }
            Ok(LaneEnd::Impossible(why)) => Ok(self.without_blocks(why)),
            Err(error) => Ok(self.without_blocks(&error.to_string())),
            Ok(LaneEnd::Lost(error, first)) => {
                let refused = first.filter(|_| is_refusal(self.name(), &error));
                let (refusals, acknowledged) = {
                    let mut blocks = self.blocks.lock();
                    blocks.refusals += usize::from(refused.is_some());
                    (blocks.refusals, blocks.acknowledged)
                };
                if let Some(place) = refused {
                    self.with_schedule(|schedule| schedule.set_plain(place));
                }
                match refused {
                    Some(_) if refusals < REFUSALS_MAX => Ok(at_once),
                    Some(_) => Ok(self.without_blocks("it has refused paths")),
                    // Its zstd may be to blame, or what else is in between.
                    None if acknowledged == 0 || !may_pass(&error) => {
                        Ok(self.without_blocks(&error.to_string()))
                    }
                    None => {
                        let pause = failures.pause(self, Arc::new(error), ended.since)?;
                        Ok(After::Again(pause))
                    }
                }
            }
        }
    }

    /// From now on everything goes by connections of their own.
    pub(super) fn without_blocks(&self, why: &str) -> After {
        let was_off = std::mem::replace(&mut self.blocks.lock().is_off, true);
        if !was_off {
            log::debug!(
                "{}: everything is sent as it is, over channels of their own: {why}",
                self.name()
            );
        }
        self.blocks.lock().lane = None;
        self.set_compress(None);
        self.with_schedule(Schedule::lose_blocks);
        After::Never
    }
}
