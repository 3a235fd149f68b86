//! How fast each host delivers, and which one would be done first. [`HostRate`] is pure: the time is an argument.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::pool::HostId;

/// The shortest time over which bytes are counted to measure a rate.
const MEASURE_WINDOW: Duration = Duration::from_millis(100);

/// So many bytes tell something about the rate even if they came within two round trips.
const MIN_BURST: u64 = 256 << 10;

/// The weight of a new measurement.
const NEW_RATE_WEIGHT: f64 = 0.4;

/// How many times later than the best host another one may be done and still be asked: estimates are rough, and two hosts
/// at work are faster than one.
const LATE_FACTOR: f64 = 1.5;

/// What is known of one host.
#[derive(Debug, Clone, Default)]
struct HostRate {
    /// Bytes a second; unknown at first.
    rate: Option<f64>,
    /// Requested and not yet received, in bytes.
    backlog: u64,
    /// What came lately, while bytes were outstanding.
    window: Option<Window>,
    /// The round trip to it.
    latency: Duration,
}

/// Bytes that are counted.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    bytes: u64,
    /// It began with a request, a round trip before the first byte.
    after_request: bool,
}

impl HostRate {
    /// So many more bytes are requested.
    fn on_requested(&mut self, bytes: u64, now: Instant) {
        if self.backlog == 0 {
            self.window = Some(Window {
                since: now,
                bytes: 0,
                after_request: true,
            });
        }
        self.backlog += bytes;
    }

    /// So many bytes of those that were requested have come.
    fn on_received(&mut self, bytes: u64, now: Instant) {
        self.backlog = self.backlog.saturating_sub(bytes);
        let Some(mut window) = self.window else {
            return;
        };
        window.bytes += bytes;
        let time = self.transfer_time(&window, now);
        // Where little came, most of the time may be the round trip, which is not known exactly.
        let tells = !window.after_request || window.bytes >= MIN_BURST || time >= 2 * self.latency;
        let rate = window.bytes as f64 / time.as_secs_f64().max(0.001);
        if tells && time >= MEASURE_WINDOW {
            let old = self.rate.unwrap_or(rate);
            self.rate = Some(old + NEW_RATE_WEIGHT * (rate - old));
            window = Window {
                since: now,
                bytes: 0,
                after_request: false,
            };
        }
        self.window = Some(window);
        if self.backlog == 0 {
            // All came within less than a window: a first estimate, or a sign that the rate is higher.
            if tells && window.after_request && window.bytes > 0 {
                let old = self.rate.unwrap_or(rate);
                self.rate = Some(old + NEW_RATE_WEIGHT * (rate - old).max(0.0));
            }
            self.window = None;
        }
    }

    /// How long the bytes of a window took, without the round trip. As much as half of the time may be that: the latency
    /// that is known is the shortest of a few, and may be that of a login.
    fn transfer_time(&self, window: &Window, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(window.since);
        match window.after_request {
            true => elapsed - self.latency.min(elapsed / 2),
            false => elapsed,
        }
    }

    /// So many bytes that were requested will not come.
    fn on_given_up(&mut self, bytes: u64) {
        self.backlog = self.backlog.saturating_sub(bytes);
        if self.backlog == 0 {
            self.window = None;
        }
    }

    /// There is a connection now for what was requested.
    fn on_connected(&mut self, now: Instant) {
        let waiting = self.window.as_mut();
        if let Some(window) = waiting.filter(|window| window.after_request && window.bytes == 0) {
            window.since = now;
        }
    }

    fn set_latency(&mut self, latency: Duration) {
        self.latency = latency;
    }

    /// How long the outstanding bytes will take, in seconds.
    fn backlog_secs(&self) -> f64 {
        self.rate
            .map_or(0.0, |rate| self.backlog as f64 / rate.max(1.0))
    }

    /// How long it will take until so many bytes more have come, in seconds. A host of which nothing is known counts as
    /// fast, or it would never be tried.
    fn estimate_secs(&self, bytes: u64) -> f64 {
        let transfer = self
            .rate
            .map_or(0.0, |rate| (self.backlog + bytes) as f64 / rate.max(1.0));
        self.latency.as_secs_f64() + transfer
    }

    /// Whether to ask this host for so many bytes although `others` could be asked.
    fn is_worth_asking<'a>(&self, bytes: u64, others: impl Iterator<Item = &'a HostRate>) -> bool {
        let mine = self.estimate_secs(bytes);
        others.filter(|other| other.rate.is_some()).all(|other| {
            mine <= LATE_FACTOR * other.estimate_secs(bytes) + MEASURE_WINDOW.as_secs_f64()
        })
    }
}

/// The throughput of all hosts.
#[derive(Debug, Default)]
pub(in crate::transfer) struct Throughput(Mutex<HashMap<HostId, HostRate>>);

impl Throughput {
    /// The rate of a host in bytes a second, once it is known.
    pub(in crate::transfer) fn of(&self, host: HostId) -> Option<u64> {
        let rate = self.0.lock().get(&host)?.rate?;
        Some(rate as u64)
    }

    /// Whether a host has bytes outstanding and its rate is not known.
    pub(in crate::transfer) fn is_being_measured(&self, host: HostId) -> bool {
        let throughput = self.0.lock();
        let rate = throughput.get(&host);
        rate.is_some_and(|rate| rate.rate.is_none() && rate.backlog > 0)
    }

    pub(in crate::transfer) fn set_latency(&self, host: HostId, latency: Duration) {
        self.0.lock().entry(host).or_default().set_latency(latency);
    }

    /// So many bytes are requested from a host. They count as outstanding until they have come or the value is dropped.
    pub(in crate::transfer) fn request(
        self: &Arc<Self>,
        host: HostId,
        bytes: u64,
    ) -> OutstandingBytes {
        self.0
            .lock()
            .entry(host)
            .or_default()
            .on_requested(bytes, Instant::now());
        OutstandingBytes {
            throughput: self.clone(),
            host,
            left: bytes,
        }
    }

    /// There is a connection now for what was requested from a host: as long as nothing came, the time until then says
    /// nothing about its rate.
    pub(in crate::transfer) fn on_connected(&self, host: HostId) {
        if let Some(rate) = self.0.lock().get_mut(&host) {
            rate.on_connected(Instant::now());
        }
    }

    /// How long a host would take for so many bytes more, in seconds.
    pub(in crate::transfer) fn estimate_secs(&self, host: HostId, bytes: u64) -> f64 {
        self.0
            .lock()
            .get(&host)
            .map_or(0.0, |rate| rate.estimate_secs(bytes))
    }

    /// How long the outstanding bytes of a host will take, in seconds, as far as its rate is known.
    pub(in crate::transfer) fn backlog_secs(&self, host: HostId) -> f64 {
        self.0.lock().get(&host).map_or(0.0, HostRate::backlog_secs)
    }

    /// Whether to ask `host` for so many bytes although other holders could be asked.
    pub(in crate::transfer) fn is_worth_asking(
        &self,
        host: HostId,
        bytes: u64,
        holders: &[HostId],
    ) -> bool {
        let throughput = self.0.lock();
        let unknown = HostRate::default();
        let others = holders.iter().filter(|other| **other != host);
        let others = others.filter_map(|other| throughput.get(other));
        let mine = throughput.get(&host).unwrap_or(&unknown);
        mine.is_worth_asking(bytes, others)
    }

    /// Whether `others`, which share `total` bytes, will have brought all of them long before `host` has brought `bytes`
    /// of them. `false` when their rates are not known.
    pub(in crate::transfer) fn would_be_last(
        &self,
        host: HostId,
        bytes: u64,
        total: u64,
        others: &[HostId],
    ) -> bool {
        let throughput = self.0.lock();
        let Some(mine) = throughput.get(&host).filter(|mine| mine.rate.is_some()) else {
            return false;
        };
        let known = others.iter().filter_map(|other| throughput.get(other));
        let known = known.filter_map(|other| Some((other.rate?, other.backlog)));
        let (rate, backlog) = known.fold((0.0, 0), |(rate, backlog), other| {
            (rate + other.0, backlog + other.1)
        });
        if rate <= 0.0 {
            return false;
        }
        let theirs = (backlog + total) as f64 / rate;
        mine.estimate_secs(bytes) > LATE_FACTOR * theirs + MEASURE_WINDOW.as_secs_f64()
    }

    /// Puts the hosts that would be late last, and else keeps the order.
    pub(in crate::transfer) fn put_late_ones_last(&self, hosts: &mut [HostId], bytes: u64) {
        let all = hosts.to_vec();
        hosts.sort_by_cached_key(|host| !self.is_worth_asking(*host, bytes, &all));
    }
}

/// Bytes that were requested from a host and have not come.
#[derive(Debug)]
pub(in crate::transfer) struct OutstandingBytes {
    throughput: Arc<Throughput>,
    host: HostId,
    left: u64,
}

impl OutstandingBytes {
    /// So many have come.
    pub(in crate::transfer) fn on_received(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        if let Some(rate) = self.throughput.0.lock().get_mut(&self.host) {
            rate.on_received(bytes, Instant::now());
        }
    }
}

impl Drop for OutstandingBytes {
    fn drop(&mut self) {
        if let Some(rate) = self.throughput.0.lock().get_mut(&self.host) {
            rate.on_given_up(self.left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(bytes_a_second: u64) -> HostRate {
        let (mut rate, now) = (HostRate::default(), Instant::now());
        rate.on_requested(2 * bytes_a_second, now);
        rate.on_received(bytes_a_second, now + Duration::from_secs(1));
        rate.on_received(bytes_a_second, now + Duration::from_secs(2));
        rate
    }

    #[test]
    fn the_rate_is_what_came_while_something_was_owed() {
        let rate = host(1_000_000);
        assert!((rate.estimate_secs(3_000_000) - 3.0).abs() < 0.01);
        let (mut idle, later) = (rate.clone(), Instant::now() + Duration::from_secs(99));
        idle.on_requested(1_000_000, later);
        idle.on_received(1_000_000, later + Duration::from_secs(1));
        assert!(
            (idle.estimate_secs(3_000_000) - 3.0).abs() < 0.01,
            "idle time does not count"
        );
        idle.on_requested(5_000_000, later);
        assert!(
            (idle.estimate_secs(1_000_000) - 6.0).abs() < 0.01,
            "the backlog does"
        );
        idle.on_given_up(5_000_000);
        assert!((idle.estimate_secs(1_000_000) - 1.0).abs() < 0.01);
    }

    /// Else a host that is near would be asked for one part at a time, for ever.
    #[test]
    fn what_comes_at_once_gives_a_first_guess() {
        let (mut rate, now) = (HostRate::default(), Instant::now());
        rate.on_requested(1_000_000, now);
        rate.on_received(400_000, now + MEASURE_WINDOW / 10);
        assert_eq!(rate.rate, None, "more is to come");
        rate.on_received(600_000, now + MEASURE_WINDOW / 5);
        assert!((rate.rate.unwrap() - 50_000_000.0).abs() < 1.0);
        // A guess: what is measured over a whole window replaces most of it.
        rate.on_requested(2_000_000, now);
        rate.on_received(2_000_000, now + Duration::from_secs(2));
        assert!(rate.rate.unwrap() < 31_000_000.0);
    }

    /// Else a far host that brings tiny NARs counts as slow, for ever where each chunk comes within less than a window.
    #[test]
    fn a_round_trip_is_not_taken_for_a_low_rate() {
        let (mut host, start) = (HostRate::default(), Instant::now());
        let mut rate_after = |bytes: u64, took: Duration, round_trip: u64| {
            host.set_latency(Duration::from_millis(round_trip));
            host.on_requested(bytes, start);
            host.on_received(bytes, start + took);
            host.rate.map(|rate| (rate / 100_000.0).round() / 10.0)
        };
        let [short, long] = [60, 160].map(Duration::from_millis);
        assert_eq!(rate_after(2_000, short, 50), None);
        assert_eq!(rate_after(2_000, long, 150), None);
        assert_eq!(rate_after(400_000, short, 20), Some(10.0));
        // Larger NARs show better what the host can do.
        assert_eq!(rate_after(2_000_000, short, 20), Some(26.0));
        // And what was asked for late takes nothing back.
        assert_eq!(rate_after(2_000, short, 20), Some(26.0));
        assert_eq!(rate_after(4_000_000, 2 * long, 20), Some(20.9));
    }

    /// Else a host whose channels are all in use counts as slow.
    #[test]
    fn the_wait_for_a_connection_is_no_transfer() {
        let (mut rate, start) = (HostRate::default(), Instant::now());
        rate.on_requested(3_000_000, start);
        rate.on_connected(start + Duration::from_secs(9));
        rate.on_received(1_000_000, start + Duration::from_secs(10));
        assert!((rate.rate.unwrap() - 1_000_000.0).abs() < 1.0);
        // A second connection is no new beginning.
        rate.on_connected(start + Duration::from_secs(11));
        rate.on_received(2_000_000, start + Duration::from_secs(12));
        assert!((rate.rate.unwrap() - 1_000_000.0).abs() < 1.0);
    }

    #[test]
    fn the_last_parts_are_not_asked_of_a_slow_host() {
        let throughput = Arc::new(Throughput::default());
        let [slow, fast, unknown] = [0, 1, 2].map(HostId::at);
        throughput.0.lock().insert(slow, host(300_000));
        throughput.0.lock().insert(fast, host(20_000_000));
        let part = 2_000_000;
        assert!(throughput.would_be_last(slow, part, part, &[fast]));
        assert!(!throughput.would_be_last(fast, part, part, &[slow]));
        // Long before the fast one has brought all of that, the slow one has brought its part.
        assert!(!throughput.would_be_last(slow, part, 200_000_000, &[fast]));
        assert!(!throughput.would_be_last(slow, part, part, &[]));
        assert!(!throughput.would_be_last(slow, part, part, &[unknown]));
        assert!(!throughput.would_be_last(unknown, part, part, &[fast]));
    }

    #[test]
    fn a_slow_host_is_left_out_when_it_would_be_the_last() {
        let (slow, mut fast, unknown) = (host(1_000_000), host(20_000_000), HostRate::default());
        assert!(!slow.is_worth_asking(30_000_000, [&fast].into_iter()));
        assert!(fast.is_worth_asking(30_000_000, [&slow].into_iter()));
        assert!(slow.is_worth_asking(30_000_000, [&unknown].into_iter()));
        assert!(unknown.is_worth_asking(30_000_000, [&fast].into_iter()));
        // With a long queue at the fast one, the slow one helps.
        fast.on_requested(900_000_000, Instant::now());
        assert!(slow.is_worth_asking(30_000_000, [&fast].into_iter()));
        // Nothing is too slow for what is tiny.
        assert!(slow.is_worth_asking(10_000, [&host(20_000_000)].into_iter()));
    }
}
