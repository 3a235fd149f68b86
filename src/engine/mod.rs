//! The rooms below the doors, put together from a configuration; and as a process of its own, behind
//! a socket, for all front ends of a user.
//!
//! | module | what it does |
//! | --- | --- |
//! | `health` | the disk tier as the pool wants it |
//! | `server` | accepts front ends, ends when nobody needs it |
//! | `session` | one connection |
//! | `frames` | what goes to one client |
//! | `look` | what people want to see of it |
//! | `hurry` | the same for a client that knows nothing of engines |
//! | `callers` | which connections are one caller's |
//! | `board` | what is being transferred |
//! | `messages` | what users should know |

mod board;
mod callers;
mod frames;
mod health;
mod hurry;
mod look;
mod messages;
mod server;
mod session;

pub use look::{Kept, keep_shell, kept};
pub use messages::Messages;
pub use server::{Setting, serve};

use std::sync::Arc;
use std::time::Duration;

use health::disk_health;
use serde_json::{Value, json};

use crate::cache::disk::Surroundings;
use crate::cache::{Disk, Lifetimes};
use crate::config::Config;
use crate::config::host::Host;
use crate::front::HostsBackend;
use crate::model::StorePath;
use crate::pool::{HostId, HostStore, Limits, Notify, Pool};
use crate::resolver::{DiskTier, Resolver, Trust};
use crate::transfer::progress::Progress;
use crate::transfer::{Caller, HolderLookup, Transfers};
use crate::transport::Transport;
use crate::transport::openssh::{CallingProcess, OpenSsh, SshSettings};

/// How long a host may hold up an answer that one behind it in the order has given.
const HEDGE: Duration = Duration::from_millis(150);

/// How long a connection that a client's agent opened is kept for that client's next process.
const CLIENT_AGENT_IDLE: Duration = Duration::from_secs(30);

/// What finds paths and brings them; shared by all doors.
pub struct Engine {
    pool: Arc<Pool>,
    /// Finds paths.
    pub resolver: Arc<Resolver>,
    /// Brings them.
    pub transfers: Arc<Transfers>,
}

impl Engine {
    /// An engine for the hosts of `config`, which are reached by `transport`. `notify`
    /// tells the user of trouble with hosts, `disk` keeps what they answered and
    /// how they are for later processes. Nothing is connected or opened yet.
    #[must_use]
    pub fn new(
        config: &Config,
        transport: Arc<dyn Transport>,
        notify: Notify,
        disk: Option<Arc<Disk>>,
    ) -> Self {
        let limits = Limits {
            connect: config.connect_timeout,
            silence: config.stall_timeout,
            hedge: HEDGE,
        };
        let store = disk
            .clone()
            .map(|disk| disk_health(config, disk) as Arc<dyn HostStore>);
        let pool = Pool::new(config.hosts.clone(), transport, limits, notify, store);
        let pool = Arc::new(pool);
        let trust = Trust {
            require_sigs: config.require_sigs,
            keys: config.trusted_public_keys.as_slice().into(),
        };
        let lifetimes = Lifetimes {
            positive: config.positive_ttl,
            negative: config.negative_ttl,
        };
        let identity = |host| identity_for(config, host).into();
        let disk = disk.map(|disk| DiskTier {
            disk,
            hosts: config.hosts.iter().map(identity).collect(),
        });
        let resolver = Resolver::with_disk(pool.clone(), trust, disk, lifetimes);
        let resolver = Arc::new(resolver);
        let answers = Box::new(Answers(resolver.clone()));
        let transfers = Transfers::new(pool.clone(), config.readahead_memory, answers);
        Self {
            pool,
            resolver,
            transfers: Arc::new(transfers),
        }
    }

    /// The hosts and how they are, as JSON.
    fn hosts(&self) -> Value {
        let host = |id| {
            let latency = self.pool.latency(id);
            json!({
                "host": self.pool.host(id).to_string(),
                "well": self.pool.is_well(id),
                "latencySeconds": latency.map(|latency| latency.as_secs_f64()),
                "bytesPerSecond": self.transfers.rate(id),
                "connections": self.pool.connections(id),
            })
        };
        self.pool.hosts().map(host).collect()
    }

    /// Forgets what is remembered of the host that `name` names, or of all: what it answered, that it
    /// failed, whether it has a shell. How many hosts that are.
    fn forget(&self, name: Option<&str>) -> usize {
        let meant = name.map(Host::parse);
        let is_meant = |id: &HostId| match &meant {
            None => true,
            Some(Ok(meant)) => self.pool.host(*id).same_as(meant),
            Some(Err(_)) => false,
        };
        let hosts: Vec<HostId> = self.pool.hosts().filter(is_meant).collect();
        for host in &hosts {
            self.resolver.forget_host(*host);
            self.pool.forget_failures(*host);
        }
        hosts.len()
    }

    /// Answers for one connection of a caller; `progress` shows its transfers.
    #[must_use]
    pub fn backend(&self, caller: Arc<Caller>, progress: Arc<dyn Progress>) -> HostsBackend {
        let (resolver, transfers) = (self.resolver.clone(), self.transfers.clone());
        HostsBackend::new(resolver, transfers, caller, progress)
    }
}

/// What a resolver knows, for transfers.
pub struct Answers(pub Arc<Resolver>);

impl HolderLookup for Answers {
    fn holders(&self, path: &StorePath) -> Option<Arc<[HostId]>> {
        self.0.holders(path)
    }

    fn on_missing(&self, host: HostId, path: &StorePath) {
        self.0.forget_at(host, path);
    }
}

/// What this user's processes share. Nothing is opened yet.
#[must_use]
pub fn shared_disk() -> Arc<Disk> {
    Arc::new(Disk::new(Surroundings::of_process()))
}

/// What decides which store answers when a host is asked, as a text: with another login, program
/// or option to ssh the same name may lead to another one. The agent's socket does not, and is
/// another one in each session.
#[must_use]
pub fn identity(host: &Host, ssh_options: &[String]) -> String {
    let parts = std::iter::once(host.identity()).chain(ssh_options.iter().cloned());
    parts.collect::<Vec<_>>().join("\n")
}

/// With an agent that an unprivileged client chose, an account may run something else than with our
/// own keys: what it answers then is for those who choose the same agent.
fn identity_for(config: &Config, host: &Host) -> String {
    let mut identity = identity(host, &config.ssh_options);
    if let (true, Some(agent)) = (config.is_client_agent, &config.ssh_auth_sock) {
        identity.push_str(&format!("\nagent {}", agent.display()));
    }
    identity
}

/// How ssh is used for the hosts of `config`.
#[must_use]
pub fn ssh_settings(config: &Config) -> SshSettings {
    let only_for = config.is_client_agent.then(CallingProcess::of_process);
    let usual = SshSettings::default().idle_timeout;
    let idle_timeout = only_for.as_ref().map_or(usual, |_| CLIENT_AGENT_IDLE);
    SshSettings {
        ssh_options: config.ssh_options.clone(),
        auth_sock: config.ssh_auth_sock.clone(),
        only_for,
        idle_timeout,
        environment: config.ssh_environment.clone(),
        connect_timeout: config.connect_timeout,
        dead_link_timeout: config.dead_link_timeout,
        ..SshSettings::default()
    }
}

/// The transport to the hosts of `config`: OpenSSH.
#[must_use]
pub fn ssh_transport(config: &Config) -> Arc<dyn Transport> {
    Arc::new(OpenSsh::new(ssh_settings(config)))
}
