//! The HTTP server's process.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Outcome, configuration, inherited_socket, interrupted};
use crate::backend::{Backend, HostsBackend};
use crate::cli::Cli;
use crate::commands::engine;
use crate::config::Config;
use crate::config::host::CompressionMode;
use crate::engine::{
    CallerConnection, Callers, Engine, LocalNames, RunningTransfer, SessionProgress,
    TransferRegistry,
};
use crate::hint::Hint;
use crate::http::{
    Client, Clients, HostStatus, HttpError, OpenToOthers, Options, PackedFor, Passwords, Service,
    Status, TransferStatus, bind, serve,
};
use crate::pool::{HostId, Pool};
use crate::push::read_secret_key;
use crate::report;
use crate::resolver::Resolver;
use crate::transfer::Transfers;

/// How often what clients have left is removed.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How often what is too old of interrupted transfers is removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until it is interrupted: on the listening socket that is its standard input, which systemd has made, or else on
/// these addresses.
pub(super) async fn run(cli: &Cli, listen: &[SocketAddr]) -> Outcome {
    let mut config = configuration(cli)?;
    if !config.enabled {
        config.hosts.clear();
    }
    if config.hosts.is_empty() {
        log::warn!("no hosts to ask: see ssh-substituter-hosts and use-ssh-substituter");
    }
    // This process serves all clients: the agent of one of them has no part in it.
    let config = config.without_client_agent();
    let listeners = match inherited_socket()? {
        Some(socket) => vec![TcpListener::from(socket)],
        None => bind_all(listen)?,
    };
    let mut engine = engine(&config, None);
    engine.keep_delivered();
    let server = HttpServer::new(&config, &engine, listeners)?;
    let served = tokio::select! {
        served = server.run() => served,
        _ = interrupted() => Ok(()),
    };
    engine.resolver.flush().await;
    Ok(served?)
}

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, HttpError> {
    addresses.iter().map(|address| bind(*address)).collect()
}

/// A server in front of an engine of this process.
pub(super) struct HttpServer {
    listeners: Vec<TcpListener>,
    clients: Arc<EngineClients>,
    service: Arc<Service>,
}

impl HttpServer {
    /// As `http-listen` says; `None` where it says nothing.
    ///
    /// # Errors
    /// When an address cannot be used, or a file that the configuration names.
    pub(super) fn of_settings(
        config: &Config,
        engine: &Engine,
    ) -> Result<Option<Self>, Box<dyn Hint>> {
        if config.http_listen.is_empty() {
            return Ok(None);
        }
        let listeners = bind_all(&config.http_listen)?;
        Ok(Some(Self::new(config, engine, listeners)?))
    }

    fn new(
        config: &Config,
        engine: &Engine,
        listeners: Vec<TcpListener>,
    ) -> Result<Self, Box<dyn Hint>> {
        let options = options(config)?;
        for listener in &listeners {
            announce(listener.local_addr()?);
        }
        let local = Arc::new(LocalNames::new(config));
        let (resolver, transfers) = (engine.resolver.clone(), engine.transfers.clone());
        resolver.enable_find_by_hash(&config.store_dir, Some(local));
        let clients = Arc::new(EngineClients {
            callers: Arc::new(Callers::new(transfers.clone())),
            resolver,
            transfers,
            pool: engine.pool().clone(),
            registry: Arc::default(),
        });
        Ok(Self {
            listeners,
            service: Arc::new(Service::new(clients.clone(), options)),
            clients,
        })
    }

    /// Serves until this is dropped.
    ///
    /// # Errors
    /// When a listener cannot be used.
    pub(super) async fn run(self) -> Result<(), HttpError> {
        let upkeep = async {
            let mut check = tokio::time::interval(CHECK_INTERVAL);
            let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
            loop {
                tokio::select! {
                    _ = check.tick() => self.clients.callers.remove_gone(),
                    _ = sweep.tick() => self.clients.transfers.sweep().await,
                }
            }
        };
        tokio::select! {
            served = serve(self.listeners, self.service) => served,
            () = upkeep => Ok(()),
        }
    }
}

fn announce(address: SocketAddr) {
    log::info!("serves on http://{address}");
    if !address.ip().to_canonical().is_loopback() {
        report::warn(&OpenToOthers(address));
    }
}

/// Reads the files that the configuration names. Blocks, before anything is served.
fn options(config: &Config) -> Result<Options, Box<dyn Hint>> {
    let signing_key = config.http_signing_key.as_deref();
    let passwords = config.http_password_file.as_deref();
    Ok(Options {
        store_dir: config.store_dir.clone(),
        signing_key: signing_key.map(read_secret_key).transpose()?,
        passwords: passwords.map(Passwords::read).transpose()?,
        packed_for: match config.http_compression {
            CompressionMode::Auto => PackedFor::Others,
            CompressionMode::Zstd => PackedFor::All,
            CompressionMode::None => PackedFor::Nobody,
        },
    })
}

/// Clients of this process's engine. All connections from one address are one caller: Nix asks what paths are over up to 25
/// connections, and fetches them over others. Users of one machine share a readahead then, and its room.
struct EngineClients {
    resolver: Arc<Resolver>,
    transfers: Arc<Transfers>,
    pool: Arc<Pool>,
    registry: Arc<TransferRegistry>,
    callers: Arc<Callers<IpAddr>>,
}

impl Clients for EngineClients {
    fn connect(&self, peer: IpAddr) -> Box<dyn Client> {
        let connection = self.callers.connect(peer);
        Box::new(EngineClient {
            begins: AtomicBool::new(connection.is_new),
            resolver: self.resolver.clone(),
            transfers: self.transfers.clone(),
            registry: self.registry.clone(),
            connection,
        })
    }

    fn status(&self) -> Status {
        let transfers = self.registry.running().into_iter();
        let transfer = |running: RunningTransfer| TransferStatus {
            path: running.info.path.to_string(),
            host: running.info.host,
            bytes: running.bytes,
            size: running.info.total,
            time: running.time,
        };
        Status {
            hosts: self.pool.hosts().map(|id| self.host_status(id)).collect(),
            transfers: transfers.map(transfer).collect(),
            readahead: self.transfers.memory(),
        }
    }
}

impl EngineClients {
    fn host_status(&self, id: HostId) -> HostStatus {
        let traffic = self.transfers.traffic(id);
        let ways = [traffic.raw, traffic.compressed, traffic.differences];
        HostStatus {
            name: self.pool.host(id).to_string(),
            is_well: self.pool.is_healthy(id),
            latency: self.pool.latency(id),
            rate: self.transfers.rate(id),
            connections: self.pool.connections(id),
            nar_bytes: ways.iter().map(|way| way.nar_bytes).sum(),
            wire_bytes: ways.iter().map(|way| way.wire_bytes).sum(),
        }
    }
}

struct EngineClient {
    resolver: Arc<Resolver>,
    transfers: Arc<Transfers>,
    registry: Arc<TransferRegistry>,
    /// It has asked about no path yet, and no other connection of the caller was there before. Those who only look at the page
    /// or the numbers begin nothing.
    begins: AtomicBool,
    connection: CallerConnection<IpAddr>,
}

impl Client for EngineClient {
    fn backend(&self) -> Box<dyn Backend> {
        if self.begins.swap(false, Ordering::Relaxed) {
            self.connection.caller.forget_fetched();
            self.resolver.new_command();
        }
        let (resolver, transfers) = (self.resolver.clone(), self.transfers.clone());
        let caller = self.connection.caller.clone();
        let progress = Arc::new(SessionProgress::new(self.registry.clone()));
        Box::new(HostsBackend::new(resolver, transfers, caller, progress))
    }
}
