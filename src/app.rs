//! From the command line to a door: which one, with which configuration, and what it exits with.

mod doors;
mod engines;
mod signals;

pub use signals::interrupted;

use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{Cli, Command, ConfigAction, EngineAction};
use crate::commands::{self, Loaded};
use crate::config::{Config, ConfigError, Sources};
use crate::front;
use crate::hint::Hint;
use crate::ipc;
use crate::progress::Display;
use crate::report;
use crate::transport::openssh::{resolve, resolve_file};

/// Exit status when something could not be done.
const FAILED: u8 = 1;

type Outcome = Result<(), Box<dyn Hint>>;

/// Runs what the command line asks for.
pub async fn run(cli: Cli, display: &Arc<Display>) -> ExitCode {
    let door = async {
        let done = match (&cli.command, &cli.substitute) {
            (Some(Command::Get(args)), _) => {
                return commands::get(args, &configuration(&cli)?, display).await;
            }
            (Some(Command::Status(args)), _) => {
                return commands::status(args.json, load(&cli)).await;
            }
            (Some(Command::Doctor(args)), _) => return commands::doctor(args, load(&cli)).await,
            (Some(Command::Cache { action }), _) => {
                return commands::cache(action, load(&cli)).await;
            }
            (Some(Command::Config { action }), _) => {
                let ConfigAction::Show { json } = action;
                return commands::show_config(*json, load(&cli)).await;
            }
            (Some(Command::ServeLocal { store, .. }), _) => doors::serve_local(store).await,
            (Some(Command::Engine { action, .. }), _) => match action {
                None => engines::run(&cli).await,
                Some(EngineAction::Stop) => engines::stop().await,
                Some(EngineAction::Status) => engines::status().await,
            },
            (None, Some(words)) => doors::substitute(&cli, &words[0], &words[1], display).await,
            (None, None) if cli.serve => doors::serve(&cli, display).await,
            (None, None) => doors::query(&cli, display).await,
        };
        done.map(|()| 0)
    };
    let result = match &cli.command {
        // Nobody reads what the one says, and what the other one fetches is wanted all the same.
        Some(Command::Engine { action: None, .. } | Command::Get(_)) => door.await,
        _ => tokio::select! {
            result = door => result,
            // Whoever asked has gone: what a host still owes interests nobody.
            () = front::stdout_closed() => Ok(0),
        },
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            report::error(&*error);
            ExitCode::from(FAILED)
        }
    }
}

fn load(cli: &Cli) -> Loaded {
    let mut sources = Sources::from_process();
    sources.hosts = cli.hosts.clone();
    sources.store = match &cli.command {
        Some(Command::Engine { store, .. }) => store.clone(),
        _ => cli.store.clone(),
    };
    let pairs = cli.option.chunks_exact(2);
    sources.options = pairs.map(|p| (p[0].clone(), p[1].clone())).collect();
    let (mut config, warnings) = Config::load(sources)?;
    name_from_anywhere(&mut config);
    Ok((config, warnings))
}

/// Files that are named from the current folder are named from anywhere then: neither ssh nor an engine runs there.
fn name_from_anywhere(config: &mut Config) {
    let Some(folder) = ipc::current_folder() else {
        return;
    };
    config.ssh_options = resolve(&config.ssh_options, &folder);
    for host in &mut config.hosts {
        let key = host.ssh_key.as_ref().and_then(|key| key.to_str());
        if let Some(key) = key.and_then(|key| resolve_file(key, &folder)) {
            host.ssh_key = Some(key.into());
        }
    }
}

fn configuration(cli: &Cli) -> Result<Config, ConfigError> {
    let (config, warnings) = load(cli)?;
    for warning in warnings {
        log::warn!("{warning}");
    }
    Ok(config)
}
