//! The rooms below the doors, put together from a configuration.

mod health;

use std::sync::Arc;
use std::time::Duration;

pub use health::disk_health;

use crate::config::Config;
use crate::pool::{HealthStore, Limits, Notify, Pool};
use crate::resolver::{Resolver, Trust};
use crate::transfer::Transfers;
use crate::transfer::progress::Progress;
use crate::transport::Transport;
use crate::transport::openssh::{OpenSsh, SshSettings};

/// How long a host may hold up an answer that one behind it in the order has given.
const HEDGE: Duration = Duration::from_millis(150);

/// What finds paths and brings them; shared by all doors.
pub struct Engine {
    /// Finds paths.
    pub resolver: Arc<Resolver>,
    /// Brings them.
    pub transfers: Arc<Transfers>,
}

impl Engine {
    /// An engine for the hosts of `config`, which are reached by `transport`. `progress` shows
    /// transfers, `notify` tells the user of trouble with hosts, `health` keeps what is known of
    /// them for later processes. Nothing is connected yet.
    #[must_use]
    pub fn new(
        config: &Config,
        transport: Arc<dyn Transport>,
        progress: Arc<dyn Progress>,
        notify: Notify,
        health: Option<Arc<dyn HealthStore>>,
    ) -> Self {
        let limits = Limits {
            connect: config.connect_timeout,
            silence: config.stall_timeout,
            hedge: HEDGE,
        };
        let pool = Pool::new(config.hosts.clone(), transport, limits, notify, health);
        let pool = Arc::new(pool);
        let trust = Trust {
            require_sigs: config.require_sigs,
        };
        let resolver = Arc::new(Resolver::new(pool.clone(), trust));
        let told = resolver.clone();
        let forget = Box::new(move |_, path: &_| told.forget(path));
        let transfers = Transfers::new(pool, progress, config.readahead_memory, forget);
        Self {
            resolver,
            transfers: Arc::new(transfers),
        }
    }
}

/// The transport to the hosts of `config`: OpenSSH.
#[must_use]
pub fn ssh_transport(config: &Config) -> Arc<dyn Transport> {
    Arc::new(OpenSsh::new(SshSettings {
        ssh_options: config.ssh_options.clone(),
        auth_sock: config.ssh_auth_sock.clone(),
        connect_timeout: config.connect_timeout,
        dead_link_timeout: config.dead_link_timeout,
        ..SshSettings::default()
    }))
}
