//! From the command line to a door: which one, with which configuration, and what it exits with.

mod doors;
mod engines;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{Cli, Command, EngineAction};
use crate::config::{Config, ConfigError, Sources};
use crate::engine::{Engine, Messages, shared_disk, ssh_transport};
use crate::front;
use crate::progress::Display;
use crate::report;

/// Exit status when something could not be done.
const FAILED: u8 = 1;

type Outcome = Result<(), Box<dyn Error>>;

/// Runs what the command line asks for.
pub async fn run(cli: Cli, display: &Arc<Display>) -> ExitCode {
    let door = async {
        match (&cli.command, &cli.substitute) {
            (Some(Command::ServeLocal { store, .. }), _) => doors::serve_local(store).await,
            (Some(Command::Engine { action, .. }), _) => match action {
                None => engines::run(&cli).await,
                Some(EngineAction::Stop) => engines::stop().await,
                Some(EngineAction::Status) => engines::status().await,
            },
            (None, Some(words)) => doors::substitute(&cli, &words[0], &words[1], display).await,
            (None, None) if cli.serve => doors::serve(&cli).await,
            (None, None) => doors::query(&cli).await,
        }
    };
    let result = match &cli.command {
        // Nobody reads what it says.
        Some(Command::Engine { action: None, .. }) => door.await,
        _ => tokio::select! {
            result = door => result,
            // Whoever asked has gone: what a host still owes interests nobody.
            () = front::stdout_closed() => Ok(()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&*error);
            ExitCode::from(FAILED)
        }
    }
}

fn load(cli: &Cli) -> Result<(Config, Vec<String>), ConfigError> {
    let mut sources = Sources::from_process();
    sources.hosts = cli.hosts.clone();
    sources.store = match &cli.command {
        Some(Command::Engine { store, .. }) => store.clone(),
        _ => cli.store.clone(),
    };
    let pairs = cli.option.chunks_exact(2);
    sources.options = pairs.map(|p| (p[0].clone(), p[1].clone())).collect();
    Config::load(sources)
}

fn configuration(cli: &Cli) -> Result<Config, ConfigError> {
    let (config, warnings) = load(cli)?;
    for warning in warnings {
        log::warn!("{warning}");
    }
    Ok(config)
}

/// An engine whose trouble with hosts is told here, and to those who read `messages`.
fn engine(config: &Config, messages: Option<Messages>) -> Engine {
    let notify = Arc::new(move |error: &(dyn Error + 'static)| {
        report::warn(error);
        if let Some(messages) = &messages {
            messages.post(log::Level::Warn, report::line(error));
            for detail in report::details(error) {
                messages.post(log::Level::Debug, detail);
            }
        }
    });
    Engine::new(config, ssh_transport(config), notify, Some(shared_disk()))
}
