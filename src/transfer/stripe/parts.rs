//! Which part of a NAR is asked of whom, and what has come. Pure: the time is an argument.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;

use crate::pool::HostId;

/// Length of a part, in bytes: what ssh moves on one channel in one round trip.
pub(super) const PART: u64 = 2 << 20;

/// How many parts may be held, on their way or out of order.
const WINDOW: usize = 20;

/// A part that takes so much longer than others is asked of somebody else too.
const SLOW: u32 = 2;

/// What is added to that, for parts that come fast.
const SLACK: Duration = Duration::from_millis(200);

/// And what, when it is the same host that would be asked: its channels share one link, on which
/// asking twice makes all slower.
const SAME_HOST: Duration = Duration::from_secs(5);

/// One channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Channel {
    pub(super) host: HostId,
    pub(super) number: u64,
}

/// A NAR, from some byte on, in parts.
#[derive(Debug)]
pub(super) struct Parts {
    bytes: Range<u64>,
    /// How many have been taken by the caller.
    taken: u64,
    /// Those behind that have been asked for.
    open: VecDeque<Part>,
    /// How long a part takes, smoothed.
    usual: Option<Duration>,
}

#[derive(Debug, Default)]
struct Part {
    /// Who is asked for it, and since when.
    asked: Vec<(Channel, Instant)>,
    bytes: Option<(Bytes, HostId)>,
}

impl Parts {
    pub(super) fn new(bytes: Range<u64>) -> Self {
        Self {
            bytes,
            taken: 0,
            open: VecDeque::new(),
            usual: None,
        }
    }

    /// Start and length of a part.
    pub(super) fn range(&self, part: u64) -> (u64, u64) {
        let start = self.bytes.start + part * PART;
        (start, PART.min(self.bytes.end - start))
    }

    fn count(&self) -> u64 {
        (self.bytes.end - self.bytes.start).div_ceil(PART)
    }

    /// What a channel should ask for next: what others failed to bring, then what comes next, then,
    /// when nothing else may be asked for, what others take long for.
    pub(super) fn next(&mut self, channel: Channel, now: Instant) -> Option<u64> {
        let patience = self.usual.map(|usual| usual * SLOW + SLACK);
        let nobody = |part: &Part| part.bytes.is_none() && part.asked.is_empty();
        let late = |part: &Part| match (&part.bytes, part.asked.as_slice(), patience) {
            (None, [(other, since)], Some(patience)) => {
                let more = match other.host == channel.host {
                    true => SAME_HOST,
                    false => Duration::ZERO,
                };
                *other != channel && now.saturating_duration_since(*since) > patience + more
            }
            _ => false,
        };
        let fresh = self.taken + self.open.len() as u64;
        let at = if let Some(lost) = self.open.iter().position(nobody) {
            lost
        } else if self.open.len() < WINDOW && fresh < self.count() {
            self.open.push_back(Part::default());
            self.open.len() - 1
        } else {
            self.open.iter().position(late)?
        };
        self.open[at].asked.push((channel, now));
        Some(self.taken + at as u64)
    }

    /// Whether some part has not come yet.
    pub(super) fn is_missing_some(&self) -> bool {
        let fresh = self.taken + self.open.len() as u64;
        fresh < self.count() || self.open.iter().any(|part| part.bytes.is_none())
    }

    /// Takes a part that has come, unless it has come already.
    pub(super) fn arrived(&mut self, part: u64, bytes: Bytes, channel: Channel, now: Instant) {
        let Some(part) = self.part(part).filter(|part| part.bytes.is_none()) else {
            return;
        };
        part.bytes = Some((bytes, channel.host));
        let asked = part.asked.iter().find(|(who, _)| *who == channel);
        if let Some((_, since)) = asked {
            let took = now.saturating_duration_since(*since);
            self.usual = Some(match self.usual {
                Some(usual) => (usual * 7 + took) / 8,
                None => took,
            });
        }
    }

    /// A channel is gone: what it owes is to be asked of others.
    pub(super) fn lost(&mut self, channel: Channel) {
        for part in &mut self.open {
            part.asked.retain(|(who, _)| *who != channel);
        }
    }

    /// The next part in order, if it has come, and from which host.
    pub(super) fn take(&mut self) -> Option<(Bytes, HostId)> {
        let bytes = self.open.front_mut()?.bytes.take()?;
        self.open.pop_front();
        self.taken += 1;
        Some(bytes)
    }

    /// Whether all has been taken.
    pub(super) fn is_done(&self) -> bool {
        self.taken == self.count()
    }

    fn part(&mut self, part: u64) -> Option<&mut Part> {
        let at = usize::try_from(part.checked_sub(self.taken)?).ok()?;
        self.open.get_mut(at)
    }

    /// Who still owes a part that is needed.
    #[cfg(test)]
    fn owing(&self) -> std::collections::BTreeSet<Channel> {
        let missing = self.open.iter().filter(|part| part.bytes.is_none());
        missing
            .flat_map(|part| part.asked.iter().map(|(who, _)| *who))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let asked: Vec<_> = std::iter::from_fn(|| parts.next(a, now)).collect();
        assert_eq!(asked, (0..WINDOW as u64).collect::<Vec<_>>());
        parts.arrived(1, Bytes::from_static(b"x"), a, now);
        assert!(parts.take().is_none(), "the first is missing");
        parts.arrived(0, Bytes::from_static(b"y"), a, now);
        assert_eq!(parts.take().unwrap(), ("y".into(), a.host));
        assert_eq!(parts.take().unwrap(), ("x".into(), a.host));
        assert_eq!(parts.next(a, now), Some(20));
        assert_eq!(parts.range(30), (1000 + 30 * PART, 5));
        assert_eq!(parts.count(), 31);
    }

    #[test]
    fn what_is_lost_is_asked_again_and_what_is_late_of_others_too() {
        let [a, same_host, b, other, third] = [0, 1, 2, 4, 6].map(channel);
        let mut parts = Parts::new(0..3 * PART);
        let start = Instant::now();
        for part in 0..3 {
            assert_eq!(parts.next(a, start), Some(part));
        }
        assert_eq!(parts.next(b, start), None);
        parts.arrived(0, Bytes::new(), a, start + SLACK);
        assert_eq!(parts.next(b, start + 2 * SLACK), None, "not late yet");
        let late = start + 4 * SLACK;
        assert_eq!(parts.next(a, late), None, "its own");
        assert_eq!(parts.next(same_host, late), None, "over the same link");
        assert_eq!(parts.next(b, late), Some(1));
        assert_eq!(parts.next(other, late + 9 * SLACK), Some(2), "not thrice");
        assert_eq!(parts.next(third, late + 9 * SLACK), None);
        parts.lost(a);
        parts.lost(b);
        assert_eq!(parts.next(a, late), Some(1));
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
                    0 | 1 => owed.extend(parts.next(channel, now).map(|part| (channel, part))),
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
                while let Some((bytes, _)) = parts.take() {
                    prop_assert_eq!(&bytes[..], got.to_le_bytes());
                    got += 1;
                }
                prop_assert!(parts.open.len() <= WINDOW);
            }
            let mut turns = 0;
            while !parts.is_done() {
                work(&mut parts, (0, 0, 2000));
                work(&mut parts, (2, turns % 3, 2000));
                while let Some((bytes, _)) = parts.take() {
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
}
