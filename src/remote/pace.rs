//! Whether a remote that does send sends enough. Pure: times are arguments.
//!
//! Silence alone is no measure: a byte now and then would hold a path for ever. What is timed is the
//! waiting, never what is done with the bytes, so a slow caller is not held against a host.
//!
//! | what is read | limit, with `silence` as configured |
//! | --- | --- |
//! | a reply or a listing, which are short | twice `silence` for all of it |
//! | a NAR or a part of one | [`LEAST`] bytes a second, on average over each `silence` |

use std::time::Duration;

/// The least that a NAR must bring, in bytes a second. A line of 9,600 baud that is shared by eight
/// channels still gives each of them twice that.
pub(super) const LEAST: u64 = 64;

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something short.
    Reply,
    /// Something that may be long.
    Stream,
}

/// How what is being read has come so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How long it has been waited for.
    waited: Duration,
    /// What came meanwhile, in bytes.
    got: u64,
}

/// It comes too slowly: so many bytes in that time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSlow {
    pub(super) bytes: u64,
    pub(super) after: Duration,
}

impl Pace {
    /// How long may be waited for the next bytes.
    pub(super) fn limit(&self, kind: Kind, silence: Duration) -> Duration {
        match kind {
            Kind::Reply => silence.min((2 * silence).saturating_sub(self.waited)),
            Kind::Stream => silence,
        }
    }

    /// What has come when waiting so much longer was in vain.
    pub(super) fn so_far(&self, waited: Duration) -> TooSlow {
        TooSlow {
            bytes: self.got,
            after: self.waited + waited,
        }
    }

    /// So many bytes came after that time of waiting.
    ///
    /// # Errors
    /// When that is too slow.
    pub(super) fn came(
        &mut self,
        bytes: usize,
        waited: Duration,
        (kind, silence): (Kind, Duration),
    ) -> Result<(), TooSlow> {
        self.got += bytes as u64;
        self.waited += waited;
        let enough = match kind {
            Kind::Reply => self.waited < 2 * silence,
            Kind::Stream if self.waited < silence => true,
            Kind::Stream => {
                let least = self.waited.as_secs_f64() * LEAST as f64;
                self.got as f64 >= least
            }
        };
        if !enough {
            return Err(TooSlow {
                bytes: self.got,
                after: self.waited,
            });
        }
        if kind == Kind::Stream && self.waited >= silence {
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
    fn lasts(kind: Kind, bytes: usize, silence: u32) -> Option<u32> {
        let mut pace = Pace::default();
        (1..1000).find(|_| pace.came(bytes, SECOND, (kind, silence * SECOND)).is_err())
    }

    #[test]
    fn a_stream_must_keep_up_a_rate_and_may_then_take_for_ever() {
        assert_eq!(lasts(Kind::Stream, 63, 10), Some(10));
        assert_eq!(lasts(Kind::Stream, 64, 10), None);
        let mut pace = Pace::default();
        // What came fast at first does not count for later.
        assert_eq!(
            pace.came(1 << 30, 10 * SECOND, (Kind::Stream, 10 * SECOND)),
            Ok(())
        );
        let slow = TooSlow {
            bytes: 1,
            after: 10 * SECOND,
        };
        assert_eq!(
            pace.came(1, 10 * SECOND, (Kind::Stream, 10 * SECOND)),
            Err(slow)
        );
    }

    #[test]
    fn a_reply_has_a_time_whatever_comes() {
        assert_eq!(lasts(Kind::Reply, 1 << 20, 10), Some(20));
        let mut pace = Pace::default();
        assert_eq!(pace.limit(Kind::Reply, 10 * SECOND), 10 * SECOND);
        assert_eq!(
            pace.came(1, 15 * SECOND, (Kind::Reply, 10 * SECOND)),
            Ok(())
        );
        assert_eq!(pace.limit(Kind::Reply, 10 * SECOND), 5 * SECOND);
        assert_eq!(pace.limit(Kind::Stream, 10 * SECOND), 10 * SECOND);
    }

    #[test]
    fn what_comes_at_once_is_never_slow() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            assert_eq!(pace.came(1, Duration::ZERO, (Kind::Stream, SECOND)), Ok(()));
        }
    }
}
