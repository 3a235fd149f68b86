//! How far a transfer is, and how fast. No IO.

use std::fmt::Write;
use std::time::Duration;

use super::super::text::{part, size, time};

/// How far a transfer is, or all of them, at one moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::progress) struct TransferStatus<'a> {
    /// Bytes that have come.
    pub(in crate::progress) done: u64,
    /// All bytes that will; 0 when that is not known.
    pub(in crate::progress) total: u64,
    /// The hosts they come from; empty when that is not known.
    pub(in crate::progress) host: &'a str,
    /// `from`, or `to` where they go there.
    pub(in crate::progress) direction: &'static str,
    /// Bytes a second.
    pub(in crate::progress) rate: f64,
    /// How long nothing has come.
    pub(in crate::progress) silence: Duration,
    /// How many bytes came over the wire, where that is known and fewer than `done`.
    pub(in crate::progress) wire: Option<u64>,
}

/// Silence from which on it is shown.
const MIN_SHOWN_SILENCE: Duration = Duration::from_secs(4);

impl TransferStatus<'_> {
    /// As a line shows it: `120.0 of 400.0 MiB (30 %) from HOST, 24.0 MiB/s, 12 s left`.
    pub(in crate::progress) fn describe(&self) -> String {
        let mut text = part(self.done, self.total);
        if let Some(percent) = self.percent() {
            let _ = write!(text, " ({percent} %)");
        }
        if let Some(wire) = self.wire {
            let _ = write!(text, ", {} over the line", size(wire));
        }
        if !self.host.is_empty() {
            let _ = write!(text, " {} {}", self.direction, self.host);
        }
        self.write_rate(&mut text);
        text
    }

    /// How much of it is there, from 0 to 100.
    pub(in crate::progress) fn percent(&self) -> Option<u64> {
        let percent = u128::from(self.done) * 100 / u128::from(self.total).max(1);
        (self.total > 0).then(|| percent.min(100) as u64)
    }

    /// How long nothing has come, once that is long enough to be shown.
    pub(in crate::progress) fn shown_silence(&self) -> Option<Duration> {
        (self.silence >= MIN_SHOWN_SILENCE).then_some(self.silence)
    }

    /// How long the rest is going to take at this rate.
    pub(in crate::progress) fn time_left(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.done);
        if left == 0 || self.rate < 1.0 {
            return None;
        }
        // A rate of 1 makes at most 2^64 seconds, which a `Duration` just does not hold.
        let left = Duration::try_from_secs_f64(left as f64 / self.rate);
        Some(left.unwrap_or(Duration::MAX))
    }

    fn write_rate(&self, text: &mut String) {
        if let Some(silence) = self.shown_silence() {
            let _ = write!(text, ", no data for {}", time(silence));
            return;
        }
        let _ = write!(text, ", {}/s", size(self.rate as u64));
        if let Some(left) = self.time_left() {
            let _ = write!(text, ", {} left", time(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_what_is_known() {
        let status = TransferStatus {
            direction: "from",
            done: 120 << 20,
            total: 400 << 20,
            host: "build1",
            rate: 24.0 * 1_048_576.0,
            silence: Duration::from_secs(1),
            wire: None,
        };
        assert_eq!(
            status.describe(),
            "120.0 of 400.0 MiB (30 %) from build1, 24.0 MiB/s, 12 s left"
        );
        let nowhere = TransferStatus { host: "", ..status };
        assert!(nowhere.describe().contains("(30 %), 24"));
        let few = TransferStatus {
            wire: Some(9 << 20),
            ..nowhere
        };
        assert_eq!(
            few.describe(),
            "120.0 of 400.0 MiB (30 %), 9.0 MiB over the line, 24.0 MiB/s, 12 s left"
        );
        let stalled = TransferStatus {
            rate: 0.0,
            silence: Duration::from_secs(70),
            ..status
        };
        assert_eq!(
            stalled.describe(),
            "120.0 of 400.0 MiB (30 %) from build1, no data for 70 s"
        );
        let unknown = TransferStatus { total: 0, ..status };
        assert_eq!(unknown.describe(), "120.0 MiB from build1, 24.0 MiB/s");
        let beyond = TransferStatus {
            done: u64::MAX,
            ..status
        };
        assert!(beyond.describe().contains("(100 %)"));
        let slow = TransferStatus {
            total: u64::MAX,
            rate: 1.0,
            ..status
        };
        assert!(slow.describe().ends_with("1 B/s, more than 100 h left"));
    }
}
