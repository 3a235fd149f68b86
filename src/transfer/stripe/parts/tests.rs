//! Parts come in order, once, and are asked of others when they are lost or late.

use proptest::prelude::*;

use super::*;

/// Nothing is compared.
fn nobody(_: HostId, _: Instant) -> bool {
    false
}

fn channel(number: u64) -> Channel {
    // Two on each host.
    let host = HostId::at(usize::try_from(number / 2).unwrap());
    Channel { host, number }
}

#[test]
fn parts_come_out_in_order_and_the_window_is_bounded() {
    let a = channel(0);
    let mut parts = Parts::new(1000..1000 + 30 * PART + 5);
    let now = Instant::now();
    let asked: Vec<_> = std::iter::from_fn(|| parts.next(a, true, now)).collect();
    assert_eq!(asked, (0..WINDOW as u64).collect::<Vec<_>>());
    parts.arrived(1, Bytes::from_static(b"x"), a, now);
    assert!(parts.take(nobody).is_none(), "the first is missing");
    parts.arrived(0, Bytes::from_static(b"y"), a, now);
    assert_eq!(parts.take(nobody).unwrap(), "y");
    assert_eq!(parts.take(nobody).unwrap(), "x");
    assert_eq!(parts.next(a, true, now), Some(20));
    assert_eq!(parts.range(30), (1000 + 30 * PART, 5));
    assert_eq!(parts.count(), 31);
}

#[test]
fn what_is_lost_is_asked_again_and_what_is_late_of_others_too() {
    let [a, same_host, b, other, third] = [0, 1, 2, 4, 6].map(channel);
    let mut parts = Parts::new(0..3 * PART);
    let start = Instant::now();
    for part in 0..3 {
        assert_eq!(parts.next(a, true, start), Some(part));
    }
    assert_eq!(parts.next(b, true, start), None);
    parts.arrived(0, Bytes::new(), a, start + SLACK);
    assert_eq!(parts.next(b, true, start + 2 * SLACK), None, "not late yet");
    let late = start + 4 * SLACK;
    assert_eq!(parts.next(a, true, late), None, "its own");
    assert_eq!(
        parts.next(same_host, true, late),
        None,
        "over the same link"
    );
    assert_eq!(parts.next(b, true, late), Some(1));
    assert_eq!(
        parts.next(other, true, late + 9 * SLACK),
        Some(2),
        "not thrice"
    );
    assert_eq!(parts.next(third, true, late + 9 * SLACK), None);
    parts.lost(a);
    parts.lost(b);
    assert_eq!(parts.next(a, true, late), Some(1));
    assert_eq!(parts.owing(), [a, other].into());
}

proptest! {
    #[test]
    fn everything_comes_once_and_in_order(
        from in 0..3 * PART,
        len in 1..40 * PART,
        steps in prop::collection::vec((0_u8..4, 0_u64..3, 0_u64..2000), 0..600),
    ) {
        let mut parts = Parts::new(from..from + len);
        let start = Instant::now();
        let mut owed: Vec<(Channel, u64)> = Vec::new();
        let mut got = 0_u64;
        let mut work = |parts: &mut Parts, (what, who, when): (u8, u64, u64)| {
            let (channel, now) = (channel(who * 2), start + Duration::from_millis(when));
            match what {
                0 | 1 => owed.extend(parts.next(channel, true, now).map(|part| (channel, part))),
                2 => {
                    if let Some(at) = owed.iter().position(|(other, _)| *other == channel) {
                        let (_, part) = owed.remove(at);
                        let number = Bytes::from(part.to_le_bytes().to_vec());
                        parts.arrived(part, number, channel, now);
                    }
                }
                _ => {
                    parts.lost(channel);
                    owed.retain(|(other, _)| *other != channel);
                }
            }
        };
        for step in steps {
            work(&mut parts, step);
            while let Some(bytes) = parts.take(nobody) {
                prop_assert_eq!(&bytes[..], got.to_le_bytes());
                got += 1;
            }
            prop_assert!(parts.open.len() <= WINDOW);
        }
        let mut turns = 0;
        while !parts.is_done() {
            work(&mut parts, (0, 0, 2000));
            work(&mut parts, (2, turns % 3, 2000));
            while let Some(bytes) = parts.take(nobody) {
                prop_assert_eq!(&bytes[..], got.to_le_bytes());
                got += 1;
            }
            turns += 1;
            prop_assert!(turns < 10_000);
        }
        prop_assert_eq!(got, len.div_ceil(PART));
        prop_assert_eq!(parts.range(0).0, from);
        prop_assert!(!parts.is_missing_some());
    }
}
