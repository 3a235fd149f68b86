//! Resolver, transfers and pool, built from a configuration; and the same as a process of its own, behind a socket, for
//! all front ends of a user.
//!
//! | module | what it does |
//! | --- | --- |
//! | `partial_folder` | files for what interrupted commands have received |
//! | `push_sender` | sends what is queued to be pushed |
//! | `server` | the process: serves front ends, ends when nobody uses it |
//! | `push_pool` | the hosts that paths are sent to |
//! | `callers` | which connections belong to one caller |
//! | `bases` | which other versions of paths this machine has |
//! | `local_names` | which paths have given hash parts, as this machine knows |
//! | `host_store` | what later processes should know of hosts, in the disk tier |
//! | `spill_folder` | files for what is read ahead on disk |
//! | `transfer_registry` | the transfers that run |
//! | `ssh` | how hosts are reached by ssh |

mod bases;
mod callers;
mod host_store;
mod local_names;
mod partial_folder;
mod push_pool;
mod push_sender;
mod server;
mod spill_folder;
mod ssh;
mod transfer_registry;

pub use bases::LocalBases;
pub use callers::{CallerConnection, Callers};
pub use host_store::{record_extension, record_shell, recorded_failures};
pub use local_names::LocalNames;
pub use partial_folder::PartialFolder;
pub use push_pool::push_pool;
pub use push_sender::{PATH_TRIES_MAX, PushSender};
pub use server::{Ended, Messages, ServerOptions, serve};
pub use spill_folder::SpillFolder;
pub use ssh::{ssh_settings, ssh_transport, store_identity};
pub use transfer_registry::{RunningTransfer, SessionProgress, TransferRegistry};

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::HostsBackend;
use crate::cache::disk::Environment;
use crate::cache::{Disk, Lifetimes};
use crate::config::Config;
use crate::config::host::Host;
use crate::model::StorePath;
use crate::pool::{HostId, HostStore, Limits, Notify, Pool};
use crate::resolver::{KeyedDisk, Resolver, Trust};
use crate::transfer::progress::Progress;
use crate::transfer::{Caller, HolderLookup, HostTraffic, Transfers, WayTraffic};
use crate::transport::Transport;
use host_store::DiskHostStore;
use ssh::store_identity_for;

/// How long to wait for a preferred host once another one has answered.
const HEDGE_DELAY: Duration = Duration::from_millis(150);

/// Finds paths and fetches them, for all front ends of a process.
pub struct Engine {
    pool: Arc<Pool>,
    /// Finds paths.
    pub resolver: Arc<Resolver>,
    /// Fetches them.
    pub transfers: Arc<Transfers>,
}

impl Engine {
    /// An engine for the hosts of `config`, which are reached by `transport`. `notify` reports failures of hosts to the
    /// user. `disk` keeps for later processes what hosts have answered and how they are. Nothing is connected or opened
    /// yet.
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
            hedge: HEDGE_DELAY,
        };
        let store = disk
            .clone()
            .map(|disk| Arc::new(DiskHostStore::new(config, disk)) as Arc<dyn HostStore>);
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
        let identity = |host| store_identity_for(config, host).into();
        let disk = disk.map(|disk| KeyedDisk {
            disk,
            hosts: config.hosts.iter().map(identity).collect(),
        });
        let resolver = Resolver::with_disk(pool.clone(), trust, disk, lifetimes);
        let resolver = Arc::new(resolver);
        let holders = Box::new(ResolverLookup(resolver.clone()));
        let bases = Arc::new(LocalBases::new(config));
        let spill = Arc::new(SpillFolder::new(Environment::of_process()));
        let memory = config.readahead_memory;
        let transfers = Transfers::with_bases(pool.clone(), memory, holders, Some(bases))
            .with_disk(spill, config.readahead_disk);
        let kept = config.partial_downloads;
        let transfers = match kept {
            0 => transfers,
            bytes => transfers.with_partials(Arc::new(PartialFolder::in_cache(bytes))),
        };
        Self {
            pool,
            resolver,
            transfers: Arc::new(transfers),
        }
    }

    /// Keeps small NARs in memory for a while, for those who want the same. To be called before anything is fetched.
    pub fn keep_delivered(&mut self) {
        if let Some(transfers) = Arc::get_mut(&mut self.transfers) {
            transfers.keep_delivered();
        }
    }

    /// Keeps what it receives of large NARs in `folder`, where they are put when they are complete, and not in the private
    /// cache folder. To be called before anything is fetched.
    pub fn keep_partials_in(&mut self, folder: &Path, config: &Config) {
        if let Some(transfers) = Arc::get_mut(&mut self.transfers)
            && config.partial_downloads > 0
        {
            let folder = PartialFolder::in_destination(folder.to_owned(), config.partial_downloads);
            transfers.set_partials(Arc::new(folder));
        }
    }

    /// Its hosts.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// A backend for one connection of a caller; `progress` shows its transfers.
    #[must_use]
    pub fn backend(&self, caller: Arc<Caller>, progress: Arc<dyn Progress>) -> HostsBackend {
        let (resolver, transfers) = (self.resolver.clone(), self.transfers.clone());
        HostsBackend::new(resolver, transfers, caller, progress)
    }

    /// Forgets what is remembered of the host that `name` names, or of all hosts: answers, failures, whether there is a
    /// shell. Returns the number of hosts.
    fn forget(&self, name: Option<&str>) -> usize {
        let named = name.map(Host::parse);
        let is_named = |id: &HostId| match &named {
            None => true,
            Some(Ok(named)) => self.pool.host(*id).same_as(named),
            Some(Err(_)) => false,
        };
        let hosts: Vec<HostId> = self.pool.hosts().filter(is_named).collect();
        for host in &hosts {
            self.resolver.forget_host(*host);
            self.pool.forget_failures(*host);
        }
        hosts.len()
    }

    /// The hosts and how they are, as JSON.
    fn hosts(&self) -> Value {
        let host = |id| {
            let latency = self.pool.latency(id);
            json!({
                "host": self.pool.host(id).to_string(),
                "well": self.pool.is_healthy(id),
                "latencySeconds": latency.map(|latency| latency.as_secs_f64()),
                "bytesPerSecond": self.transfers.rate(id),
                "connections": self.pool.connections(id),
                "received": received(self.transfers.traffic(id)),
            })
        };
        self.pool.hosts().map(host).collect()
    }

    /// Where answers about paths came from, as JSON.
    fn answers(&self) -> Value {
        let counts = self.resolver.counts();
        json!({
            "fromMemory": counts.memory,
            "fromDisk": counts.disk,
            "askedAhead": counts.ahead,
            "fromHosts": counts.hosts,
        })
    }
}

/// How many bytes came from a host, as JSON.
fn received(traffic: HostTraffic) -> Value {
    let way = |way: WayTraffic| json!({ "narBytes": way.nar_bytes, "wireBytes": way.wire_bytes });
    json!({
        "raw": way(traffic.raw),
        "compressed": way(traffic.compressed),
        "differences": way(traffic.differences),
    })
}

/// Which hosts have a path, as a resolver knows.
pub struct ResolverLookup(pub Arc<Resolver>);

impl HolderLookup for ResolverLookup {
    fn holders(&self, path: &StorePath) -> Option<Arc<[HostId]>> {
        self.0.holders(path)
    }

    fn look_for_holders(&self, paths: Vec<StorePath>) {
        self.0.look_for_holders(paths);
    }

    fn on_missing(&self, host: HostId, path: &StorePath) {
        self.0.forget_at(host, path);
    }
}

/// The disk tier that this user's processes share. Nothing is opened yet.
#[must_use]
pub fn shared_disk() -> Arc<Disk> {
    Arc::new(Disk::new(Environment::of_process()))
}
