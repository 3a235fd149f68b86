//! From the command line to a door: which one, with which configuration, and what it exits with.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{Cli, Command};
use crate::config::{Config, ConfigError, Sources};
use crate::engine::{Engine, shared_disk, ssh_transport};
use crate::front::{self, HostsBackend, LocalBackend};
use crate::local_store::LocalStore;
use crate::progress::Display;
use crate::report;
use crate::transfer::progress::{NoProgress, Progress};
use crate::wire::serve::Version;

/// Exit status when something could not be done.
const FAILED: u8 = 1;

/// Runs what the command line asks for.
pub async fn run(cli: Cli, display: &Arc<Display>) -> ExitCode {
    let door = async {
        match (&cli.command, &cli.substitute) {
            (Some(Command::ServeLocal { store, .. }), _) => serve_local(store).await,
            (None, Some(words)) => substitute(&cli, &words[0], &words[1], display).await,
            (None, None) if cli.serve => serve(&cli).await,
            (None, None) => query(&cli).await,
        }
    };
    let result = tokio::select! {
        result = door => result,
        // Whoever asked has gone: what a host still owes interests nobody.
        () = front::stdout_closed() => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&*error);
            ExitCode::from(FAILED)
        }
    }
}

type Outcome = Result<(), Box<dyn Error>>;

/// `--query`. A program that may not be used, or cannot be, ends before its first line and with
/// status 0: to Nix 1.x that means "disabled", anything else would stop its whole command.
async fn query(cli: &Cli) -> Outcome {
    let config = match configuration(cli) {
        Ok(config) => config,
        Err(error) => {
            report::error(&error);
            return Ok(());
        }
    };
    if !config.enabled || config.hosts.is_empty() {
        log::debug!("switched off, or no hosts configured");
        return Ok(());
    }
    let engine = engine(&config);
    let backend = backend(&engine, Arc::new(NoProgress));
    let served = front::query(front::stdin(), front::stdout(), &backend).await;
    engine.resolver.flush().await;
    Ok(served?)
}

/// `--substitute`. The line that has to come whatever happens comes from the door itself, so it is
/// entered even without a configuration, which then has no hosts.
async fn substitute(cli: &Cli, path: &Path, dest: &Path, display: &Arc<Display>) -> Outcome {
    let config = usable(cli);
    let engine = engine(&config);
    engine.resolver.ask_no_more_than_needed();
    let backend = backend(&engine, display.clone());
    let path = path.to_string_lossy();
    let substituted = front::substitute(&path, dest, front::stdout(), &backend).await;
    engine.resolver.flush().await;
    Ok(substituted?)
}

/// `--serve`. Without a usable configuration it serves nothing rather than to end: a program that
/// ends stops the whole command of today's Nix.
async fn serve(cli: &Cli) -> Outcome {
    let config = usable(cli);
    let engine = engine(&config);
    let backend = backend(&engine, Arc::new(NoProgress));
    let served = front::serve(front::stdin(), front::stdout(), &backend, Version::NEWEST).await;
    engine.resolver.flush().await;
    Ok(served?)
}

async fn serve_local(store: &str) -> Outcome {
    let root = match store {
        "local" | "auto" => "/",
        store => store.strip_prefix("local?root=").unwrap_or(store),
    };
    let root = PathBuf::from(root);
    let store = tokio::task::spawn_blocking(move || LocalStore::open(&root)).await??;
    let backend = LocalBackend::new(store);
    front::serve(front::stdin(), front::stdout(), &backend, Version::NEWEST).await?;
    Ok(())
}

/// The configuration, without hosts when it is wrong or the program is switched off.
fn usable(cli: &Cli) -> Config {
    let mut config = configuration(cli).unwrap_or_else(|error| {
        report::error(&error);
        Config::without_hosts()
    });
    if !config.enabled {
        config.hosts.clear();
    }
    if config.hosts.is_empty() {
        log::warn!("no hosts to ask: see ssh-substituter-hosts and use-ssh-substituter");
    }
    config
}

fn configuration(cli: &Cli) -> Result<Config, ConfigError> {
    let mut sources = Sources::from_process();
    sources.hosts = cli.hosts.clone();
    sources.store = cli.store.clone();
    let pairs = cli.option.chunks_exact(2);
    sources.options = pairs.map(|p| (p[0].clone(), p[1].clone())).collect();
    let (config, warnings) = Config::load(sources)?;
    for warning in warnings {
        log::warn!("{warning}");
    }
    Ok(config)
}

fn engine(config: &Config) -> Engine {
    let notify = Arc::new(|error: &(dyn Error + 'static)| report::warn(error));
    Engine::new(config, ssh_transport(config), notify, Some(shared_disk()))
}

fn backend(engine: &Engine, progress: Arc<dyn Progress>) -> HostsBackend {
    engine.backend(Arc::new(engine.transfers.caller()), progress)
}
