//! How derivations were built, as hosts with a shell know it.

use super::Resolver;
use crate::model::StorePath;

/// How much of a log is read, in bytes: its beginning, as it is printed.
const LOG_MAX: usize = 4 << 20;

impl Resolver {
    /// The log of how this derivation was built, from the first host that has one; of a log of more than 4 MiB the beginning, with a
    /// line that says so. Hosts whose accounts have no shell are passed over.
    pub async fn build_log(&self, derivation: &StorePath) -> Option<Vec<u8>> {
        let pool = &self.core.pool;
        let hosts: Vec<_> = pool.hosts().collect();
        for host in pool.in_order_of_health(&hosts) {
            match pool.build_log(host, derivation, LOG_MAX).await {
                Ok(Some(mut log)) => {
                    if log.len() >= LOG_MAX {
                        let note = "\n[ssh-substituter: there is more, which is left out]\n";
                        log.extend_from_slice(note.as_bytes());
                    }
                    return Some(log);
                }
                Ok(None) => {}
                Err(error) => pool.record_failure(host, &error).await,
            }
        }
        None
    }
}
