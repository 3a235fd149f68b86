//! Whether a host compresses the next chunk, decided by what came of both ways so far. [`HostChoice`] is pure.

use parking_lot::Mutex;
use std::collections::HashMap;

use crate::config::host::CompressionMode;
use crate::pool::HostId;
use crate::remote::SLOW;

/// Throughput of a near host, in bytes a second, from which on nothing is compressed: hosts compress about 200 MB/s, and
/// have better things to do.
const FAST: u64 = 60_000_000;

/// How many bytes come in the better way before the other one is tried again; doubled each time.
const FIRST_TRIAL_AFTER: u64 = 64 << 20;

/// The most of it.
const MAX_TRIAL_AFTER: u64 = 1 << 30;

/// The weight of a new measurement.
const NEW_RATE_WEIGHT: f64 = 0.3;

/// What came of both ways on one host.
#[derive(Debug, Default)]
struct HostChoice {
    /// Bytes of contents a second on one channel, as they are and compressed.
    raw: Option<f64>,
    compressed: Option<f64>,
    /// Bytes that were requested since the worse way was tried, and how often it was.
    since_trial: u64,
    trials: u32,
    /// Its zstd does not work.
    is_broken: bool,
    /// Runs of small NARs were found worth compressing.
    compresses_dumps: bool,
    /// That does not work there.
    dumps_fail: bool,
}

impl HostChoice {
    /// Whether the next `len` bytes are to be compressed. `is_far` and `rate` (bytes a second) are of the host as a whole.
    fn choose(&mut self, len: u64, is_far: bool, rate: Option<u64>) -> bool {
        self.since_trial += len;
        let is_better = match (self.raw, self.compressed) {
            // On a long link what the window holds counts for more when it is compressed.
            (None, None) => return is_far,
            (Some(_), None) => return rate.is_some_and(|rate| rate < FAST),
            (None, Some(_)) => true,
            (Some(raw), Some(compressed)) => compressed > raw,
        };
        let trial_after = (FIRST_TRIAL_AFTER << self.trials.min(10)).min(MAX_TRIAL_AFTER);
        if self.since_trial < trial_after {
            return is_better;
        }
        self.since_trial = 0;
        self.trials += 1;
        !is_better
    }

    fn record(&mut self, compressed: bool, bytes: u64, secs: f64) {
        let measured = bytes as f64 / secs.max(0.001);
        let rate = match compressed {
            true => &mut self.compressed,
            false => &mut self.raw,
        };
        *rate = Some(match *rate {
            Some(rate) => rate + NEW_RATE_WEIGHT * (measured - rate),
            None => measured,
        });
    }
}

/// What came of both ways, for all hosts.
#[derive(Debug, Default)]
pub(in crate::transfer) struct CompressionChoices(Mutex<HashMap<HostId, HostChoice>>);

impl CompressionChoices {
    /// Whether a host that has `zstd` is to compress the next `len` bytes.
    pub(in crate::transfer) fn choose(
        &self,
        host: HostId,
        mode: CompressionMode,
        len: u64,
        is_far: bool,
        rate: Option<u64>,
    ) -> bool {
        let mut choices = self.0.lock();
        let choice = choices.entry(host).or_default();
        !choice.is_broken
            && match mode {
                CompressionMode::None => false,
                CompressionMode::Zstd => true,
                CompressionMode::Auto => choice.choose(len, is_far, rate),
            }
    }

    /// Whether a host that has `zstd` is to compress runs of small NARs. It stays so, since its `rate` (bytes of NARs a
    /// second) grows by it.
    pub(in crate::transfer) fn choose_dumps(
        &self,
        host: HostId,
        mode: CompressionMode,
        rate: Option<u64>,
    ) -> bool {
        let mut choices = self.0.lock();
        let choice = choices.entry(host).or_default();
        choice.compresses_dumps |= match mode {
            CompressionMode::None => return false,
            CompressionMode::Zstd => true,
            CompressionMode::Auto => rate.is_some_and(|rate| rate < SLOW),
        };
        choice.compresses_dumps && !choice.is_broken && !choice.dumps_fail
    }

    /// Runs of small NARs do not come from that host. They are not asked for again.
    pub(in crate::transfer) fn record_dumps_fail(&self, host: HostId) {
        self.0.lock().entry(host).or_default().dumps_fail = true;
    }

    /// A channel took `secs` for a chunk of `bytes` bytes.
    pub(in crate::transfer) fn record(
        &self,
        host: HostId,
        compressed: bool,
        bytes: u64,
        secs: f64,
    ) {
        self.0
            .lock()
            .entry(host)
            .or_default()
            .record(compressed, bytes, secs);
    }

    /// What the host compressed was unusable. It is not asked to again.
    pub(in crate::transfer) fn record_broken(&self, host: HostId) {
        self.0.lock().entry(host).or_default().is_broken = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_near_and_fast_host_sends_as_it_is_for_ever() {
        let mut choice = HostChoice::default();
        for _ in 0..1000 {
            assert!(!choice.choose(2 * MIB, false, Some(FAST)));
            choice.record(false, 2 * MIB, 0.02);
        }
    }

    #[test]
    fn a_near_and_slow_one_compresses_once_its_rate_is_known() {
        let mut choice = HostChoice::default();
        assert!(!choice.choose(MIB, false, None));
        choice.record(false, MIB, 0.5);
        assert!(choice.choose(MIB, false, Some(2 * MIB)));
        choice.record(true, MIB, 0.2);
        assert!(choice.choose(MIB, false, Some(5 * MIB)));
    }

    /// The share of bytes that is compressed, where that takes so many times as long.
    fn share(times: f64, is_far: bool) -> f64 {
        let mut choice = HostChoice::default();
        let rounds = 2000;
        let compressed = (0..rounds).filter(|_| {
            let compressed = choice.choose(2 * MIB, is_far, Some(MIB));
            choice.record(compressed, 2 * MIB, if compressed { times } else { 1.0 });
            compressed
        });
        compressed.count() as f64 / f64::from(rounds)
    }

    #[test]
    fn the_faster_way_wins_and_the_other_is_tried_now_and_then() {
        for is_far in [false, true] {
            let good = share(0.4, is_far);
            assert!((0.99..1.0).contains(&good), "{good}");
            let bad = share(1.5, is_far);
            assert!((0.0001..0.03).contains(&bad), "{bad}");
        }
    }

    #[test]
    fn what_was_the_worse_way_may_become_the_better_one() {
        let mut choice = HostChoice::default();
        for round in 0..2000 {
            let compressed = choice.choose(2 * MIB, true, Some(MIB));
            // The host was busy at first.
            let slow = compressed && round < 100;
            choice.record(
                compressed,
                2 * MIB,
                if slow {
                    3.0
                } else {
                    1.0 - 0.5 * f64::from(u8::from(compressed))
                },
            );
        }
        assert!(choice.choose(2 * MIB, true, Some(MIB)));
    }

    #[test]
    fn the_setting_decides_and_a_broken_zstd_is_left_alone() {
        let choices = CompressionChoices::default();
        let host = HostId::at(0);
        let choose = |mode| choices.choose(host, mode, MIB, true, None);
        assert!(choose(CompressionMode::Zstd) && choose(CompressionMode::Auto));
        assert!(!choose(CompressionMode::None));
        choices.record_broken(host);
        assert!(!choose(CompressionMode::Zstd) && !choose(CompressionMode::Auto));
    }
}
