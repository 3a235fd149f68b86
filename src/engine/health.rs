//! Hosts' health, and whether their accounts have a shell, in the disk tier: the pool says what, the
//! cache says where.

use std::sync::Arc;

use crate::cache::Disk;
use crate::config::Config;
use crate::model::HealthRecord;
use crate::pool::HostStore;

/// Where later processes of this user find what is known of the hosts of `config` when they are
/// reached by ssh: in `disk`.
pub(super) fn disk_health(config: &Config, disk: Arc<Disk>) -> Arc<DiskHealth> {
    let sock = config.ssh_auth_sock.as_deref();
    let sock = sock.map(|path| path.to_string_lossy().into_owned());
    let settings = config.ssh_options.iter().cloned().chain(sock);
    Arc::new(DiskHealth {
        disk,
        scope: settings.map(|setting| format!("\n{setting}")).collect(),
    })
}

/// The store for the hosts of one configuration.
pub(super) struct DiskHealth {
    disk: Arc<Disk>,
    /// What decides, besides the host, whether it can be reached: with other options to ssh the
    /// same name may be another machine.
    scope: String,
}

impl DiskHealth {
    fn key(&self, host: &str) -> String {
        format!("{host}{}", self.scope)
    }
}

impl HostStore for DiskHealth {
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
}
