//! Chunks come in order, once, and are asked of others when they are lost or late.

use proptest::prelude::*;

use super::*;

/// Nothing is compared.
fn nobody(_: HostId, _: Instant) -> bool {
    false
}

fn channel(number: u64) -> ChannelId {
    // Two on each host.
    let host = HostId::at(usize::try_from(number / 2).unwrap());
    ChannelId { host, number }
}

#[test]
fn parts_come_out_in_order_and_the_window_is_bounded() {
    let a = channel(0);
    let mut chunks = ChunkWindow::new(1000..1000 + 30 * CHUNK_SIZE + 5);
    let now = Instant::now();
    let asked: Vec<_> = std::iter::from_fn(|| chunks.next(a, true, now)).collect();
    assert_eq!(asked, (0..WINDOW_CHUNKS as u64).collect::<Vec<_>>());
    chunks.arrived(1, Bytes::from_static(b"x"), a, now);
    assert!(chunks.take(nobody).is_none(), "the first is missing");
    chunks.arrived(0, Bytes::from_static(b"y"), a, now);
    assert_eq!(chunks.take(nobody).unwrap(), ("y".into(), a.host));
    assert_eq!(chunks.take(nobody).unwrap(), ("x".into(), a.host));
    assert_eq!(chunks.next(a, true, now), Some(20));
    assert_eq!(chunks.range(30), (1000 + 30 * CHUNK_SIZE, 5));
    assert_eq!(chunks.count(), 31);
}

#[test]
fn what_is_lost_is_asked_again_and_what_is_late_of_others_too() {
    let [a, same_host, b, other, third] = [0, 1, 2, 4, 6].map(channel);
    let mut chunks = ChunkWindow::new(0..3 * CHUNK_SIZE);
    let start = Instant::now();
    for chunk in 0..3 {
        assert_eq!(chunks.next(a, true, start), Some(chunk));
    }
    assert_eq!(chunks.next(b, true, start), None);
    chunks.arrived(0, Bytes::new(), a, start + SLOW_SLACK);
    assert_eq!(
        chunks.next(b, true, start + 2 * SLOW_SLACK),
        None,
        "not late yet"
    );
    let late = start + 4 * SLOW_SLACK;
    assert_eq!(chunks.next(a, true, late), None, "its own");
    assert_eq!(
        chunks.next(same_host, true, late),
        None,
        "over the same link"
    );
    assert_eq!(chunks.next(b, true, late), Some(1));
    assert_eq!(
        chunks.next(other, true, late + 9 * SLOW_SLACK),
        Some(2),
        "not thrice"
    );
    assert_eq!(chunks.next(third, true, late + 9 * SLOW_SLACK), None);
    chunks.channel_ended(a);
    chunks.channel_ended(b);
    assert_eq!(chunks.next(a, true, late), Some(1));
    assert_eq!(chunks.owing(), [a, other].into());
}

proptest! {
    #[test]
    fn everything_comes_once_and_in_order(
        from in 0..3 * CHUNK_SIZE,
        len in 1..40 * CHUNK_SIZE,
        steps in prop::collection::vec((0_u8..4, 0_u64..3, 0_u64..2000), 0..600),
    ) {
        let mut chunks = ChunkWindow::new(from..from + len);
        let start = Instant::now();
        let mut owed: Vec<(ChannelId, u64)> = Vec::new();
        let mut got = 0_u64;
        let mut work = |chunks: &mut ChunkWindow, (what, who, when): (u8, u64, u64)| {
            let (channel, now) = (channel(who * 2), start + Duration::from_millis(when));
            match what {
                0 | 1 => owed.extend(chunks.next(channel, true, now).map(|chunk| (channel, chunk))),
                2 => {
                    if let Some(at) = owed.iter().position(|(other, _)| *other == channel) {
                        let (_, chunk) = owed.remove(at);
                        let number = Bytes::from(chunk.to_le_bytes().to_vec());
                        chunks.arrived(chunk, number, channel, now);
                    }
                }
                _ => {
                    chunks.channel_ended(channel);
                    owed.retain(|(other, _)| *other != channel);
                }
            }
        };
        for step in steps {
            work(&mut chunks, step);
            while let Some((bytes, _)) = chunks.take(nobody) {
                prop_assert_eq!(&bytes[..], got.to_le_bytes());
                got += 1;
            }
            prop_assert!(chunks.open.len() <= WINDOW_CHUNKS);
        }
        let mut turns = 0;
        while !chunks.is_done() {
            work(&mut chunks, (0, 0, 2000));
            work(&mut chunks, (2, turns % 3, 2000));
            while let Some((bytes, _)) = chunks.take(nobody) {
                prop_assert_eq!(&bytes[..], got.to_le_bytes());
                got += 1;
            }
            turns += 1;
            prop_assert!(turns < 10_000);
        }
        prop_assert_eq!(got, len.div_ceil(CHUNK_SIZE));
        prop_assert_eq!(chunks.range(0).0, from);
        prop_assert!(!chunks.is_missing_some());
    }
}
