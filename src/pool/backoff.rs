//! Pauses that double.

use std::time::Duration;

/// The pause after that many failures in a row: `first`, doubled with each further one, at most `longest`.
#[must_use]
pub fn exponential(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest)
}
