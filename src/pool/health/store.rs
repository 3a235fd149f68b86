//! Where hosts' health is kept between processes.

use crate::model::HealthRecord;

/// Keeps what is known of hosts for later processes. All calls may block. A store that cannot keep or find
/// something does nothing, as by default.
///
/// `host_key` identifies a host and is opaque to the store.
pub trait HostStore: Send + Sync {
    /// What is known of a host's failures.
    fn health(&self, host_key: &str) -> Option<HealthRecord> {
        let _ = host_key;
        None
    }

    /// Remembers a host's failures. The default record may as well be forgotten.
    fn set_health(&self, host_key: &str, record: &HealthRecord) {
        let _ = (host_key, record);
    }

    /// Whether a host's account has a usable shell, where that was found out; false only where its program does not take
    /// the place of one either.
    fn has_shell(&self, host_key: &str) -> Option<bool> {
        let _ = host_key;
        None
    }

    /// Remembers the same.
    fn set_has_shell(&self, host_key: &str, has_shell: bool) {
        let _ = (host_key, has_shell);
    }

    /// Whether a host's program was found to speak the extension by which parts of NARs come without a shell.
    fn has_extension(&self, host_key: &str) -> bool {
        let _ = host_key;
        false
    }

    /// Remembers that it does, in place of what is known of a shell.
    fn set_has_extension(&self, host_key: &str) {
        let _ = host_key;
    }
}
