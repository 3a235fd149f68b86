//! How fast each host delivers, and which one would be done first.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::host_rate::{HostRate, LATE_FACTOR, MEASURE_WINDOW};
use crate::pool::HostId;

/// A large NAR is left to another host that takes so many times less for all of it, and so many seconds.
const OVERTAKEN_FACTOR: f64 = 3.0;
const OVERTAKEN_SECS: f64 = 2.0;

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
            is_stream: false,
        }
    }

    /// The same for a large NAR, whole, on a channel of its own.
    pub(in crate::transfer) fn request_stream(
        self: &Arc<Self>,
        host: HostId,
        bytes: u64,
    ) -> OutstandingBytes {
        let mut outstanding = self.request(host, bytes);
        outstanding.is_stream = true;
        self.0.lock().entry(host).or_default().on_stream_begins();
        outstanding
    }

    /// Whether one more large NAR would come from a host without making the others slower.
    pub(in crate::transfer) fn has_room_for_stream(&self, host: HostId) -> bool {
        let throughput = self.0.lock();
        let rate = throughput.get(&host);
        rate.is_none_or(HostRate::has_room_for_stream)
    }

    /// Whether `host` brings `bytes` before `others` have brought the `total` bytes, these included, that a caller wants
    /// before it goes on. `false` when their rates are not known.
    pub(in crate::transfer) fn is_in_time(
        &self,
        host: HostId,
        bytes: u64,
        total: u64,
        others: &[HostId],
    ) -> bool {
        let throughput = self.0.lock();
        let others = others.iter().filter(|other| **other != host);
        let (mut rate, mut backlog) = (0.0, 0);
        for other in others.filter_map(|other| throughput.get(other)) {
            rate += other.rate.unwrap_or_default();
            backlog += other.rate.map_or(0, |_| other.backlog);
        }
        let mine = throughput.get(&host).filter(|mine| mine.rate.is_some());
        rate > 0.0
            && mine.is_some_and(|mine| mine.estimate_secs(bytes) <= (backlog + total) as f64 / rate)
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
        let (mut rate, mut backlog, mut quickest) = (0.0, 0, f64::INFINITY);
        for other in others.iter().filter_map(|other| throughput.get(other)) {
            if let Some(known) = other.rate {
                rate += known;
                backlog += other.backlog;
                quickest = quickest.min(other.estimate_secs(bytes));
            }
        }
        if rate <= 0.0 {
            return false;
        }
        // These bytes come from one host. Without that, each might leave them to the others, for ever.
        let theirs = quickest.max((backlog + total) as f64 / rate);
        mine.estimate_secs(bytes) > LATE_FACTOR * theirs + MEASURE_WINDOW.as_secs_f64()
    }

    /// How long a host will take for the rest of a large NAR that it is sending, in seconds; `None` while that is not known.
    pub(in crate::transfer) fn stream_secs(&self, host: HostId, rest: u64) -> Option<f64> {
        self.0.lock().get(&host)?.stream_secs(rest)
    }

    /// Whether one of `others` would send all of a large NAR long before `host` has sent the `rest` of it.
    pub(in crate::transfer) fn is_overtaken(
        &self,
        host: HostId,
        rest: u64,
        bytes: u64,
        others: &[HostId],
    ) -> bool {
        let Some(mine) = self.stream_secs(host, rest) else {
            return false;
        };
        let throughput = self.0.lock();
        let others = others.iter().filter(|other| **other != host);
        let mut others = others.filter_map(|other| throughput.get(other)?.new_stream_secs(bytes));
        others.any(|theirs| mine > OVERTAKEN_FACTOR * theirs + OVERTAKEN_SECS)
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
    is_stream: bool,
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
            if self.is_stream {
                rate.on_stream_ends();
            }
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
    fn a_slow_host_brings_what_is_wanted_later() {
        let throughput = Arc::new(Throughput::default());
        let [slow, fast, unknown] = [0, 1, 2].map(HostId::at);
        throughput.0.lock().insert(slow, host(2_000_000));
        throughput.0.lock().insert(fast, host(20_000_000));
        let (nar, hosts) = (40_000_000, [slow, fast]);
        // 20 s beside 2 s, and beside 22 s.
        assert!(!throughput.is_in_time(slow, nar, nar, &hosts));
        assert!(throughput.is_in_time(slow, nar, 11 * nar, &hosts));
        assert!(!throughput.is_in_time(slow, nar, 11 * nar, &[unknown]));
        assert!(!throughput.is_in_time(unknown, nar, 11 * nar, &hosts));
        let _taken = throughput.request_stream(slow, nar);
        assert!(!throughput.is_in_time(slow, nar, 12 * nar, &hosts));
    }

    #[test]
    fn a_large_nar_is_left_to_a_host_that_is_far_quicker() {
        let throughput = Arc::new(Throughput::default());
        let [slow, fast, unknown] = [0, 1, 2].map(HostId::at);
        throughput.0.lock().insert(slow, host(1_000_000));
        throughput.0.lock().insert(fast, host(20_000_000));
        let _outstanding = throughput.request_stream(slow, 40_000_000);
        let is_overtaken = |rest, others: &[HostId]| {
            throughput.is_overtaken(slow, rest, 40_000_000, &[&[slow], others].concat())
        };
        assert!(is_overtaken(39_000_000, &[fast]));
        assert!(!is_overtaken(4_000_000, &[fast]), "it is nearly there");
        assert!(!is_overtaken(39_000_000, &[unknown]));
        // One channel over 100 ms moves 20 MB/s, whatever the host could send.
        throughput.0.lock().insert(fast, host(400_000_000));
        assert!(is_overtaken(4_000_000, &[fast]));
        throughput.set_latency(fast, Duration::from_millis(100));
        assert!(!is_overtaken(4_000_000, &[fast]));
        assert!(!throughput.is_overtaken(fast, 40_000_000, 40_000_000, &[slow, fast]));
    }

    #[test]
    fn hosts_do_not_leave_the_last_part_to_each_other() {
        let throughput = Arc::new(Throughput::default());
        let hosts = [0, 1, 2, 3].map(HostId::at);
        let is_left = |part: u64| {
            hosts.into_iter().all(|host| {
                let others = hosts.into_iter().filter(|other| *other != host);
                throughput.would_be_last(host, part, part, &others.collect::<Vec<_>>())
            })
        };
        for id in hosts {
            throughput.0.lock().insert(id, host(1_000_000));
        }
        assert!(!is_left(2_000_000), "all are alike");
        for id in hosts {
            throughput.set_latency(id, Duration::from_secs(9));
        }
        assert!(!is_left(2_000_000), "all were slow to answer");
    }
}
