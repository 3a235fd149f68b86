//! The HTTP server's process.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, configuration, interrupted};
use crate::backend::Backend;
use crate::cli::Cli;
use crate::commands::engine;
use crate::config::Config;
use crate::engine::{CallerConnection, Callers, Engine, LocalNames};
use crate::http::{Client, Clients, HttpError, Options, Service, bind, serve};
use crate::transfer::progress::NoProgress;

/// How often what clients have left is removed.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Serves on these addresses until it is interrupted.
pub(super) async fn run(cli: &Cli, listen: &[SocketAddr]) -> Outcome {
    let mut config = configuration(cli)?;
    if !config.enabled {
        config.hosts.clear();
    }
    if config.hosts.is_empty() {
        log::warn!("no hosts to ask: see ssh-substituter-hosts and use-ssh-substituter");
    }
    let listeners: Vec<TcpListener> = listen
        .iter()
        .map(|address| bind(*address))
        .collect::<Result<_, HttpError>>()?;
    for listener in &listeners {
        announce(listener.local_addr()?);
    }
    // This process serves all clients: the agent of one of them has no part in it.
    let config = config.without_client_agent();
    let engine = Arc::new(engine(&config, None));
    let (clients, options) = (clients(&config, &engine), options(&config));
    let service = Arc::new(Service::new(clients.clone(), options));
    let check = async {
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        loop {
            check.tick().await;
            clients.callers.remove_gone();
        }
    };
    let served = tokio::select! {
        served = serve(listeners, service) => served,
        () = check => Ok(()),
        _ = interrupted() => Ok(()),
    };
    engine.resolver.flush().await;
    Ok(served?)
}

fn announce(address: SocketAddr) {
    log::info!("serves on http://{address}");
    if !address.ip().is_loopback() {
        log::warn!(
            "{address} is not of this machine alone: whoever reaches it can get every path that the hosts have \
             (hint: see docs/http.md, \"A cache for the whole network\")"
        );
    }
}

fn options(config: &Config) -> Options {
    Options {
        store_dir: config.store_dir.clone(),
    }
}

fn clients(config: &Config, engine: &Arc<Engine>) -> Arc<EngineClients> {
    let local = Arc::new(LocalNames::new(config));
    let resolver = &engine.resolver;
    resolver.enable_find_by_hash(&config.store_dir, Some(local));
    Arc::new(EngineClients {
        engine: engine.clone(),
        callers: Arc::new(Callers::new(engine.transfers.clone())),
    })
}

/// Clients of this process's engine. All connections from one address are one caller: Nix asks what paths are over up to 25
/// connections, and fetches them over others. Users of the same machine then share one readahead, which costs them nothing.
struct EngineClients {
    engine: Arc<Engine>,
    callers: Arc<Callers<IpAddr>>,
}

impl Clients for EngineClients {
    fn connect(&self, peer: IpAddr) -> Box<dyn Client> {
        let connection = self.callers.connect(peer);
        if connection.is_new {
            connection.caller.forget_fetched();
            self.engine.resolver.new_command();
        }
        let engine = self.engine.clone();
        Box::new(EngineClient { engine, connection })
    }
}

struct EngineClient {
    engine: Arc<Engine>,
    connection: CallerConnection<IpAddr>,
}

impl Client for EngineClient {
    fn backend(&self) -> Box<dyn Backend> {
        let caller = self.connection.caller.clone();
        Box::new(self.engine.backend(caller, Arc::new(NoProgress)))
    }
}
