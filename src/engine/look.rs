//! What people want to see of an engine's parts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Engine;
use super::health::disk_health;
use crate::cache::Disk;
use crate::config::Config;
use crate::config::host::Host;
use crate::model::HealthRecord;
use crate::pool::{HostStore, Pool};

/// What earlier processes of this user left about a host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// Its failures; none when it is well.
    pub health: Option<HealthRecord>,
    /// Whether its account has a shell, where that was found out in the last days.
    pub has_shell: Option<bool>,
}

/// What stands in `disk` about a host that is reached as `config` says. Blocks.
#[must_use]
pub fn kept(config: &Config, disk: &Arc<Disk>, host: &Host) -> Kept {
    let store = disk_health(config, disk.clone());
    let health = store.health(&host.identity());
    Kept {
        health: health.filter(|health| health.failures > 0),
        has_shell: store.has_shell(&host.identity()),
    }
}

/// Lets later processes know whether the account of a host has a shell. Blocks.
pub fn keep_shell(config: &Config, disk: &Arc<Disk>, host: &Host, has_shell: bool) {
    let store = disk_health(config, disk.clone());
    store.set_has_shell(&host.identity(), has_shell);
}

impl Engine {
    /// Its hosts.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Where answers about paths came from, as JSON.
    pub(super) fn answers(&self) -> Value {
        let counts = self.resolver.counts();
        json!({
            "fromMemory": counts.memory,
            "fromDisk": counts.disk,
            "askedAhead": counts.ahead,
            "fromHosts": counts.hosts,
        })
    }
}
