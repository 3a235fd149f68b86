//! What answers about one path become together, and how they age.

use std::time::Duration;

use super::super::host_answer::OWN_ANSWER_LIFETIME;
use super::*;
use crate::model::StorePath;
use crate::model::samples::bare;

fn hosts() -> [HostId; 3] {
    [0, 1, 2].map(HostId::at)
}

fn has(host: HostId, hash: Option<u8>) -> HostAnswer {
    let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
    let info = PathInfo {
        nar_hash: hash.map(|byte| NarHash::new([byte; 32])),
        ..bare(path)
    };
    HostAnswer {
        host,
        kind: AnswerKind::Has(Arc::new(info)),
        checked_at: 1_000,
        from_disk: false,
    }
}

fn told(record: &PathRecord) -> Vec<usize> {
    let found = record.best_match();
    found.map_or(Vec::new(), |found| {
        found.holders.iter().map(|host| host.index()).collect()
    })
}

#[test]
fn holders_have_the_same_nar_and_the_best_decides() {
    let [a, b, c] = hosts();
    let mut record = PathRecord::default();
    assert!(record.best_match().is_none());
    for answer in [has(c, Some(1)), has(b, Some(2)), has(a, Some(1))] {
        record.insert(answer);
    }
    assert_eq!(told(&record), [0, 2]);
    let mut unknown = PathRecord::default();
    unknown.insert(has(a, None));
    unknown.insert(has(b, None));
    assert_eq!(told(&unknown), [0], "without a hash nothing is the same");
}

#[test]
fn the_hash_that_was_told_stays() {
    let [a, b, c] = hosts();
    let mut record = PathRecord::default();
    record.insert(has(b, Some(2)));
    let copy = record.clone();
    assert_eq!(told(&copy), [1]);
    record.insert(has(a, Some(1)));
    record.insert(has(c, Some(2)));
    assert_eq!(told(&record), [1, 2], "although a better host has another");
    record.remove(b);
    assert_eq!(told(&record), [2]);
    record.remove(c);
    assert_eq!(told(&record), [0], "nobody has it any more");
}

#[test]
fn a_refusal_is_for_those_who_were_told() {
    let [a, b, _] = hosts();
    let mut record = PathRecord::default();
    record.insert(has(a, Some(1)));
    record.insert(HostAnswer {
        kind: AnswerKind::Refused(7),
        ..has(b, Some(1))
    });
    let valid = |callers| {
        let valid = record.valid(&Lifetimes::default(), 1_000, callers);
        valid.hosts().map(HostId::index).collect::<Vec<_>>()
    };
    assert_eq!(valid(7), [0, 1]);
    assert_eq!(valid(8), [0]);
}

#[test]
fn what_a_host_says_again_replaces_what_it_said() {
    let [a, b, c] = hosts();
    let mut record = PathRecord::default();
    record.insert(has(a, Some(1)));
    record.insert(HostAnswer {
        kind: AnswerKind::Lacks,
        ..has(b, None)
    });
    let mut kind = |host, has| record.record_check(host, has, 2_000);
    assert_eq!(kind(a, true), CheckOutcome::StillHas);
    assert_eq!(kind(b, false), CheckOutcome::StillLacks);
    assert_eq!(kind(c, true), CheckOutcome::Unknown);
    assert_eq!(kind(a, false), CheckOutcome::Gone);
    assert_eq!(kind(b, true), CheckOutcome::Appeared);
    assert_eq!(
        record.answer_of(a).map(|answer| answer.checked_at),
        Some(2_000)
    );
    assert_eq!(record.hosts().collect::<Vec<_>>(), [a]);
    assert!(record.best_match().is_none());
    record.insert(HostAnswer {
        kind: AnswerKind::Refused(7),
        ..has(c, Some(1))
    });
    assert_eq!(record.record_check(c, true, 2_000), CheckOutcome::Unknown);
    assert_eq!(record.record_check(c, false, 2_000), CheckOutcome::Gone);
}

#[test]
fn answers_age() {
    let [a, b, c] = hosts();
    let lifetimes = Lifetimes {
        positive: Duration::from_secs(100),
        negative: Duration::from_secs(10),
    };
    let mut record = PathRecord::default();
    record.insert(has(a, Some(1)));
    record.insert(HostAnswer {
        from_disk: true,
        ..has(b, Some(1))
    });
    record.insert(HostAnswer {
        kind: AnswerKind::Lacks,
        ..has(c, None)
    });
    let valid = |now| {
        let valid = record.valid(&lifetimes, now, 0);
        valid.hosts().map(HostId::index).collect::<Vec<_>>()
    };
    assert_eq!(valid(1_009), [0, 1, 2]);
    assert_eq!(valid(1_010), [0, 1]);
    assert_eq!(valid(1_100), [0]);
    assert!(valid(1_000 + OWN_ANSWER_LIFETIME).is_empty());
}
