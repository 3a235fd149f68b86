//! What later processes of this user should know of hosts, in the disk tier: their health, and whether their accounts have
//! a shell.

use std::sync::Arc;

use crate::cache::Disk;
use crate::config::Config;
use crate::config::host::Host;
use crate::model::HealthRecord;
use crate::pool::HostStore;

/// The failures of a host that is reached as `config` says, as earlier processes of this user have recorded them in
/// `disk`; `None` if it is well. Blocks.
#[must_use]
pub fn recorded_failures(config: &Config, disk: &Arc<Disk>, host: &Host) -> Option<HealthRecord> {
    let store = DiskHostStore::new(config, disk.clone());
    let health = store.health(&host.identity());
    health.filter(|health| health.failures > 0)
}

/// Records in `disk` whether the account of a host has a shell. Blocks.
pub fn record_shell(config: &Config, disk: &Arc<Disk>, host: &Host, has_shell: bool) {
    let store = DiskHostStore::new(config, disk.clone());
    store.set_has_shell(&host.identity(), has_shell);
}

/// Records in `disk` that the program of a host speaks the extension. Blocks.
pub fn record_extension(config: &Config, disk: &Arc<Disk>, host: &Host) {
    let store = DiskHostStore::new(config, disk.clone());
    store.set_has_extension(&host.identity());
}

/// Records of the hosts of one configuration.
pub(super) struct DiskHostStore {
    disk: Arc<Disk>,
    /// Part of the key: with other options to ssh or another agent, the same name may lead to another machine.
    scope: String,
}

impl DiskHostStore {
    /// The records in `disk` of hosts that are reached as `config` says.
    pub(super) fn new(config: &Config, disk: Arc<Disk>) -> Self {
        let sock = config.ssh_auth_sock.as_deref();
        let sock = sock.map(|path| path.to_string_lossy().into_owned());
        let settings = config.ssh_options.iter().cloned().chain(sock);
        let scope = settings.map(|setting| format!("\n{setting}")).collect();
        Self { disk, scope }
    }

    fn key(&self, host: &str) -> String {
        format!("{host}{}", self.scope)
    }
}

impl HostStore for DiskHostStore {
    fn health(&self, host: &str) -> Option<HealthRecord> {
        self.disk.host_health(&self.key(host))
    }

    fn set_health(&self, host: &str, record: &HealthRecord) {
        self.disk.set_host_health(&self.key(host), record);
    }

    fn has_shell(&self, host: &str) -> Option<bool> {
        self.disk.host_shell(&self.key(host))
    }

    fn set_has_shell(&self, host: &str, has_shell: bool) {
        self.disk.set_host_shell(&self.key(host), has_shell);
    }

    fn has_extension(&self, host: &str) -> bool {
        self.disk.host_extension(&self.key(host))
    }

    fn set_has_extension(&self, host: &str) {
        self.disk.set_host_extension(&self.key(host));
    }
}
