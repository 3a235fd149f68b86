//! Pauses, probes and records, without a clock.

use proptest::prelude::*;

use super::Standing::{HalfOpen, Healthy, JustFailed, Resting};
use super::*;

/// No jitter.
const MIDDLE: u32 = u32::MAX / 2;

fn start() -> Now {
    Now {
        instant: Instant::now(),
        unix: 1_800_000_000_000,
    }
}

fn after(start: Now, ms: u64) -> Now {
    Now {
        instant: start.instant + Duration::from_millis(ms),
        unix: start.unix + ms,
    }
}

fn at(health: &CircuitBreaker, start: Now, ms: u64) -> Standing {
    health.standing(after(start, ms).instant)
}

#[test]
fn pauses_grow_and_end() {
    let (mut health, start) = (CircuitBreaker::default(), start());
    assert_eq!(at(&health, start, 0), Healthy);
    assert!(health.record_failure(start, MIDDLE));
    assert_eq!(at(&health, start, 4_900), JustFailed);
    assert_eq!(at(&health, start, 5_100), HalfOpen);
    let later = after(start, 6_000);
    assert!(health.record_failure(later, MIDDLE));
    assert_eq!(at(&health, later, 4_900), JustFailed);
    assert_eq!(at(&health, later, 5_100), Resting, "the flat pause is over");
    assert_eq!(at(&health, later, 9_900), Resting);
    assert_eq!(at(&health, later, 10_100), HalfOpen);
    assert!(health.record_success());
    assert!(!health.record_success(), "no news any more");
    assert_eq!(at(&health, later, 0), Healthy);
    health.record_failure(later, MIDDLE);
    assert_eq!(at(&health, later, 5_100), HalfOpen, "short again");
}

#[test]
fn chance_moves_a_pause_by_a_fifth_at_most() {
    for (random, (rests, over)) in [(0, (3_900, 4_100)), (u32::MAX, (5_900, 6_100))] {
        let (mut health, start) = (CircuitBreaker::default(), start());
        health.record_failure(start, random);
        assert!(at(&health, start, rests) >= Resting, "{random}");
        assert_eq!(at(&health, start, over), HalfOpen, "{random}");
    }
}

#[test]
fn connections_that_break_together_are_one_failure() {
    let (mut health, start) = (CircuitBreaker::default(), start());
    assert!(health.record_failure(start, MIDDLE));
    for ms in [1, 50, 4_000] {
        assert!(!health.record_failure(after(start, ms), MIDDLE));
    }
    assert_eq!(at(&health, start, 5_100), HalfOpen);
}

#[test]
fn one_at_a_time_probes() {
    let (mut health, start) = (CircuitBreaker::default(), start());
    assert!(!health.start_probe(start.instant), "healthy");
    health.record_failure(start, MIDDLE);
    assert!(!health.start_probe(start.instant), "resting");
    let later = after(start, 6_000);
    assert!(health.start_probe(later.instant));
    assert!(!health.start_probe(later.instant));
    assert_eq!(at(&health, later, 0), Resting, "for all others");
    health.end_probe();
    assert!(health.start_probe(later.instant));
    health.record_failure(later, MIDDLE);
    assert!(health.start_probe(after(later, 11_000).instant));
}

#[test]
fn an_early_probe_makes_no_pause_longer() {
    let (mut health, start) = (CircuitBreaker::default(), start());
    assert!(!health.start_early_probe(), "healthy");
    health.record_failure(start, MIDDLE);
    health.record_failure(after(start, 6_000), MIDDLE);
    let before = health.record(after(start, 8_000));
    assert!(health.start_early_probe());
    assert!(!health.start_early_probe(), "one at a time");
    assert!(!health.record_failure(after(start, 8_000), MIDDLE));
    assert_eq!(health.record(after(start, 8_000)), before);
    assert_eq!(at(&health, start, 12_900), JustFailed);
    assert_eq!(at(&health, start, 16_100), HalfOpen);
    let since = health.since_failure(after(start, 9_500).instant);
    assert_eq!(since, Duration::from_millis(1_500));
}

#[test]
fn a_later_process_knows_what_this_one_knows() {
    let (mut health, start) = (CircuitBreaker::default(), start());
    for ms in [0, 10_000, 30_000] {
        health.record_failure(after(start, ms), MIDDLE);
    }
    let written = after(start, 31_000);
    let record = health.record(written);
    assert_eq!(
        (record.failures, record.last_failure),
        (3, start.unix + 30_000)
    );
    // Another process: its own origin of monotonic time.
    let read = Now {
        instant: Instant::now() + Duration::from_secs(9_999),
        unix: written.unix + 2_000,
    };
    let mut other = CircuitBreaker::default();
    other.merge(&record, read);
    assert_eq!(at(&other, read, 1_900), JustFailed);
    assert_eq!(at(&other, read, 2_100), Resting);
    assert_eq!(at(&other, read, 16_900), Resting);
    assert_eq!(at(&other, read, 17_100), HalfOpen);
    other.record_failure(after(read, 20_000), MIDDLE);
    assert_eq!(other.record(after(read, 20_000)).failures, 4);
}

#[test]
fn only_newer_failures_are_news() {
    let now = start();
    let record = |failures, last_failure, rest_until| HealthRecord {
        failures,
        last_failure: now.unix + last_failure - 1_000,
        rest_until: now.unix + rest_until - 1_000,
    };
    let mut health = CircuitBreaker::default();
    health.record_failure(now, MIDDLE);
    let mine = health.record(now);
    health.merge(&record(6, 0, 200_000), now);
    assert_eq!(health.record(now), mine, "older");
    let later = after(now, 3_000);
    health.merge(&record(1, 2_000, 3_000), later);
    assert_eq!(
        at(&health, now, 4_900),
        JustFailed,
        "the longer pause holds"
    );
    health.merge(&HealthRecord::default(), later);
    assert_eq!(health.record(later).failures, 1);
    health.record_success();
    let day = after(now, 86_400_000);
    health.merge(&record(9, 0, 300_000), day);
    assert_eq!(health.standing(day.instant), Healthy, "stale");
}

#[test]
fn a_clock_that_was_set_back_shortens_nothing_and_lengthens_nothing() {
    let (mut health, now) = (CircuitBreaker::default(), start());
    let day = 86_400_000;
    let record = HealthRecord {
        failures: 2,
        last_failure: now.unix + day,
        rest_until: now.unix + day + 10_000,
    };
    health.merge(&record, now);
    assert!(at(&health, now, 9_900) >= Resting);
    assert_eq!(at(&health, now, 10_100), HalfOpen);
}

proptest! {
    #[test]
    fn no_record_makes_a_host_rest_for_longer_than_the_longest_pause(
        records in prop::collection::vec((any::<u32>(), any::<u64>(), any::<u64>()), 1..4),
        near in prop::collection::vec((any::<u32>(), -1_000_000_i64..1_000_000, -1_000_000_i64..1_000_000), 0..4),
        randoms in prop::collection::vec(any::<u32>(), 0..4),
    ) {
        let (mut health, now) = (CircuitBreaker::default(), start());
        let around = |ms: i64| now.unix.saturating_add_signed(ms);
        let near = near.into_iter().map(|(f, l, r)| (f, around(l), around(r)));
        for (failures, last_failure, rest_until) in records.into_iter().chain(near) {
            health.merge(&HealthRecord { failures, last_failure, rest_until }, now);
        }
        let longest = millis(LONGEST_PAUSE.mul_f64(1.0 + JITTER)) + 1;
        prop_assert!(at(&health, now, longest) <= HalfOpen);
        for random in randoms {
            health.record_failure(now, random);
        }
        prop_assert!(at(&health, now, longest) <= HalfOpen);
        // And the next process believes no more either.
        let mut next = CircuitBreaker::default();
        next.merge(&health.record(now), now);
        prop_assert!(at(&next, now, longest) <= HalfOpen);
    }
}
