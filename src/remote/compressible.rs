//! What compressing must gain to be worth it, for what comes and for what is sent.

/// A throughput in bytes a second, below which compressing gains more than starting programs costs.
pub const SLOW: u64 = 30_000_000;

/// Compressed to more than that, contents are not worth it.
const POOR_RATIO: f64 = 0.95;

/// Whether contents of `bytes` bytes that take `wire_len` bytes on the wire were not worth compressing.
#[must_use]
pub fn is_incompressible(bytes: u64, wire_len: u64) -> bool {
    wire_len as f64 > POOR_RATIO * bytes as f64
}
