//! What processes tell each other about a host's failures.

/// A host's failures. Times are milliseconds of Unix time. The default is a host without any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthRecord {
    /// Failures since the host last did what was asked.
    pub failures: u32,
    /// When it failed last. Without failures: when it took longer to let a process in than others, and
    /// that process had not seen the outcome yet.
    pub last_failure: u64,
    /// Until when it is not asked.
    pub rest_until: u64,
}
