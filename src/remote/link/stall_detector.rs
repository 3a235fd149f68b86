//! Whether a remote sends fast enough. Pure: times are arguments.
//!
//! Silence alone is no measure: a byte now and then would block a path for ever. Only the time spent waiting is
//! counted, not the time spent on the bytes, so a slow caller does not make a host look slow.
//!
//! | what is read | limit, with `silence` as configured |
//! | --- | --- |
//! | a reply or a listing, which are short | twice `silence` for the whole |
//! | a NAR or a part of one | [`STREAM_RATE_MIN`] bytes a second, on average over each `silence` |

use std::time::Duration;

/// The lowest rate of a NAR, in bytes a second. A line of 9,600 baud shared by eight channels still gives each
/// of them twice that.
pub(super) const STREAM_RATE_MIN: u64 = 64;

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) enum ReadKind {
    /// Something short.
    Reply,
    /// Something that may be long.
    Stream,
}

/// How fast the present reply comes.
#[derive(Debug, Default)]
pub(super) struct StallDetector {
    /// How long was waited for it.
    waited: Duration,
    /// What came meanwhile, in bytes.
    got: u64,
}

/// Too slow: so many bytes in that time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSlow {
    pub(super) bytes: u64,
    pub(super) after: Duration,
}

impl StallDetector {
    /// How long to wait for the next bytes.
    pub(super) fn limit(&self, kind: ReadKind, silence: Duration) -> Duration {
        match kind {
            ReadKind::Reply => silence.min((2 * silence).saturating_sub(self.waited)),
            ReadKind::Stream => silence,
        }
    }

    /// The failure after waiting so much longer in vain.
    pub(super) fn too_slow_after(&self, waited: Duration) -> TooSlow {
        TooSlow {
            bytes: self.got,
            after: self.waited + waited,
        }
    }

    /// Records that so many bytes came after that time of waiting.
    ///
    /// # Errors
    /// When that is too slow.
    pub(super) fn record(
        &mut self,
        bytes: usize,
        waited: Duration,
        (kind, silence): (ReadKind, Duration),
    ) -> Result<(), TooSlow> {
        self.got += bytes as u64;
        self.waited += waited;
        let enough = match kind {
            ReadKind::Reply => self.waited < 2 * silence,
            ReadKind::Stream if self.waited < silence => true,
            ReadKind::Stream => {
                let least = self.waited.as_secs_f64() * STREAM_RATE_MIN as f64;
                self.got as f64 >= least
            }
        };
        if !enough {
            return Err(TooSlow {
                bytes: self.got,
                after: self.waited,
            });
        }
        if kind == ReadKind::Stream && self.waited >= silence {
            *self = Self::default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Bytes that come each second; after how many seconds that is too slow.
    fn lasts(kind: ReadKind, bytes: usize, silence: u32) -> Option<u32> {
        let mut stall_detector = StallDetector::default();
        (1..1000).find(|_| {
            stall_detector
                .record(bytes, SECOND, (kind, silence * SECOND))
                .is_err()
        })
    }

    #[test]
    fn a_stream_must_keep_up_a_rate_and_may_then_take_for_ever() {
        assert_eq!(lasts(ReadKind::Stream, 63, 10), Some(10));
        assert_eq!(lasts(ReadKind::Stream, 64, 10), None);
        let mut stalls = StallDetector::default();
        let mut record = |bytes| stalls.record(bytes, 10 * SECOND, (ReadKind::Stream, 10 * SECOND));
        // What came fast at first does not count for later.
        assert_eq!(record(1 << 30), Ok(()));
        let (bytes, after) = (1, 10 * SECOND);
        assert_eq!(record(1), Err(TooSlow { bytes, after }));
    }

    #[test]
    fn a_reply_has_a_time_whatever_comes() {
        assert_eq!(lasts(ReadKind::Reply, 1 << 20, 10), Some(20));
        let mut stalls = StallDetector::default();
        assert_eq!(stalls.limit(ReadKind::Reply, 10 * SECOND), 10 * SECOND);
        let reply = (ReadKind::Reply, 10 * SECOND);
        assert_eq!(stalls.record(1, 15 * SECOND, reply), Ok(()));
        assert_eq!(stalls.limit(ReadKind::Reply, 10 * SECOND), 5 * SECOND);
        assert_eq!(stalls.limit(ReadKind::Stream, 10 * SECOND), 10 * SECOND);
    }

    #[test]
    fn what_comes_at_once_is_never_slow() {
        let mut stalls = StallDetector::default();
        for _ in 0..1000 {
            let recorded = stalls.record(1, Duration::ZERO, (ReadKind::Stream, SECOND));
            assert_eq!(recorded, Ok(()));
        }
    }
}
