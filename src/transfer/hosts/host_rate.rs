//! How fast one host delivers, and when it would be done. Pure: the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time over which bytes are counted to measure a rate.
pub(super) const MEASURE_WINDOW: Duration = Duration::from_millis(100);

/// So many bytes tell something about the rate even if they came within two round trips.
const MIN_BURST: u64 = 256 << 10;

/// The weight of a new measurement.
const NEW_RATE_WEIGHT: f64 = 0.4;

/// How many times later than the best host another one may be done and still be asked: estimates are rough, and two hosts
/// at work are faster than one.
pub(super) const LATE_FACTOR: f64 = 1.5;

/// How many bytes OpenSSH lets be on their way on one channel.
const CHANNEL_WINDOW: u64 = 2 << 20;

/// With less to come than for so many seconds and two round trips, a host is asked for the next NAR: it would pause.
const NEARLY_DONE_SECS: f64 = 0.3;

/// What is known of one host.
#[derive(Debug, Clone, Default)]
pub(super) struct HostRate {
    /// Bytes a second; unknown at first.
    pub(super) rate: Option<f64>,
    /// Requested and not yet received, in bytes.
    pub(super) backlog: u64,
    /// Large NARs that it sends whole, each on a channel of its own.
    streams: usize,
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
    pub(super) fn on_requested(&mut self, bytes: u64, now: Instant) {
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
    pub(super) fn on_received(&mut self, bytes: u64, now: Instant) {
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
    pub(super) fn on_given_up(&mut self, bytes: u64) {
        self.backlog = self.backlog.saturating_sub(bytes);
        if self.backlog == 0 {
            self.window = None;
        }
    }

    /// It is asked for a large NAR.
    pub(super) fn on_stream_begins(&mut self) {
        self.streams += 1;
    }

    /// The NAR has come, or will not.
    pub(super) fn on_stream_ends(&mut self) {
        self.streams = self.streams.saturating_sub(1);
    }

    /// Whether one more large NAR, on a channel of its own, would come from it without making the others slower. While
    /// the rate grows with the channels, their windows are the limit; when it does not, the link is.
    pub(super) fn has_room_for_stream(&self) -> bool {
        let (Some(rate), 1..) = (self.rate, self.streams) else {
            return self.streams == 0;
        };
        let latency = self.latency.as_secs_f64();
        self.streams as f64 * window_rate(latency) <= 2.0 * rate
            || self.backlog_secs() <= NEARLY_DONE_SECS + 2.0 * latency
    }

    /// How long the rest of a large NAR will take, in seconds; `None` while that is not known. All share the link, and it is
    /// done at the latest when all are.
    pub(super) fn stream_secs(&self, rest: u64) -> Option<f64> {
        let rate = self.rate?.max(1.0);
        let shared = rest as f64 * self.streams.max(1) as f64 / rate;
        let all = self.backlog.max(rest) as f64 / rate;
        Some(shared.min(all))
    }

    /// How long one more large NAR will take at most, in seconds, behind all that is outstanding.
    pub(super) fn new_stream_secs(&self, bytes: u64) -> Option<f64> {
        let latency = self.latency.as_secs_f64();
        let rate = self.rate?.min(window_rate(latency)).max(1.0);
        Some(latency + self.backlog_secs() + bytes as f64 / rate)
    }

    /// There is a connection now for what was requested.
    pub(super) fn on_connected(&mut self, now: Instant) {
        let waiting = self.window.as_mut();
        if let Some(window) = waiting.filter(|window| window.after_request && window.bytes == 0) {
            window.since = now;
        }
    }

    pub(super) fn set_latency(&mut self, latency: Duration) {
        self.latency = latency;
    }

    /// How long the outstanding bytes will take, in seconds.
    pub(super) fn backlog_secs(&self) -> f64 {
        self.rate
            .map_or(0.0, |rate| self.backlog as f64 / rate.max(1.0))
    }

    /// How long it will take until so many bytes more have come, in seconds. A host of which nothing is known counts as
    /// fast, or it would never be tried.
    pub(super) fn estimate_secs(&self, bytes: u64) -> f64 {
        let transfer = self
            .rate
            .map_or(0.0, |rate| (self.backlog + bytes) as f64 / rate.max(1.0));
        self.latency.as_secs_f64() + transfer
    }

    /// Whether to ask this host for so many bytes although `others` could be asked.
    pub(super) fn is_worth_asking<'a>(
        &self,
        bytes: u64,
        others: impl Iterator<Item = &'a HostRate>,
    ) -> bool {
        let mine = self.estimate_secs(bytes);
        others.filter(|other| other.rate.is_some()).all(|other| {
            mine <= LATE_FACTOR * other.estimate_secs(bytes) + MEASURE_WINDOW.as_secs_f64()
        })
    }
}

/// What one channel brings at most, in bytes a second.
fn window_rate(latency: f64) -> f64 {
    CHANNEL_WINDOW as f64 / latency.max(0.0001)
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
    fn channels_are_added_while_they_make_a_host_faster() {
        let most = |bytes_a_second: u64, latency: u64| {
            let mut rate = host(bytes_a_second);
            rate.set_latency(Duration::from_millis(latency));
            rate.on_requested(1_000_000_000, Instant::now());
            let more = (0..).take_while(|_| {
                let has_room = rate.has_room_for_stream();
                rate.on_stream_begins();
                has_room
            });
            more.count()
        };
        // One channel moves 21 MB/s over 100 ms: twice as many are tried as bring what was measured.
        assert_eq!(most(21_000_000, 100), 3);
        assert_eq!(most(84_000_000, 100), 9);
        // The link is the limit.
        assert_eq!(most(12_000_000, 20), 1);
        assert_eq!(most(100_000_000, 0), 1);

        let mut unknown = HostRate::default();
        assert!(unknown.has_room_for_stream());
        unknown.on_stream_begins();
        assert!(!unknown.has_room_for_stream(), "one shows the rate");
        unknown.on_stream_ends();
        assert!(unknown.has_room_for_stream());

        let mut nearly_done = host(12_000_000);
        (0..5).for_each(|_| nearly_done.on_stream_begins());
        nearly_done.on_requested(3_000_000, Instant::now());
        assert!(nearly_done.has_room_for_stream());
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
