//! From the command line to a front end, an engine or a command: its configuration and its exit status.

mod engine;
mod front_ends;
mod http;
mod signals;

pub use signals::interrupted;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{Cli, Command, ConfigAction, EngineAction, KeyAction};
use crate::commands::{self, Loaded};
use crate::config::{Config, ConfigError, Sources};
use crate::front;
use crate::hint::Hint;
use crate::ipc;
use crate::progress::Display;
use crate::report;
use crate::sys::{processes, sockets};
use crate::transport::openssh::{make_absolute, make_file_absolute};

/// Exit status when something could not be done.
const FAILED: u8 = 1;

type Outcome = Result<(), Box<dyn Hint>>;

/// Runs what the command line asks for.
pub async fn run(cli: Cli, display: &Arc<Display>) -> ExitCode {
    if let Err(error) = processes::raise_open_files() {
        log::debug!("the limit of open files stays as it is: {error}");
    }
    let work = async {
        let done = match (&cli.command, &cli.substitute) {
            (Some(Command::Get(args)), _) => {
                return commands::get(args, &configuration(&cli)?, display).await;
            }
            (Some(Command::Push(args)), _) if args.queue => {
                let (config, sender) = (configuration(&cli)?, front_ends::queue_sender(&cli)?);
                return commands::push_queue(args, &config, &sender).await;
            }
            (Some(Command::Push(args)), _) if args.wait => {
                return commands::push_wait(args, &front_ends::queue_sender(&cli)?).await;
            }
            (Some(Command::Push(args)), _) => {
                return commands::push(args, &configuration(&cli)?, display).await;
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
            (Some(Command::ServeLocal { store, .. }), _) => front_ends::serve_local(store).await,
            (Some(Command::Key { action }), _) => {
                let KeyAction::Generate { name, file } = action;
                return commands::generate_key(name, file).await;
            }
            (Some(Command::Http { listen }), _) => http::run(&cli, listen).await,
            (Some(Command::Engine { action, .. }), _) => match action {
                None => engine::run(&cli).await,
                Some(EngineAction::Stop) => return commands::engine_stop().await,
                Some(EngineAction::Status) => return commands::engine_status().await,
            },
            (None, Some(words)) => {
                front_ends::substitute(&cli, &words[0], &words[1], display).await
            }
            (None, None) if cli.serve => front_ends::serve(&cli, display).await,
            (None, None) => front_ends::query(&cli, display).await,
        };
        done.map(|()| 0)
    };
    let result = match &cli.command {
        // The stdout of servers has no reader; `get` and `push` finish even if their own is closed.
        Some(
            Command::Engine { action: None, .. }
            | Command::Http { .. }
            | Command::Get(_)
            | Command::Push(_),
        ) => work.await,
        _ => tokio::select! {
            result = work => result,
            // Without a reader, answers that hosts still owe are not needed.
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
    sources.push_hosts = match &cli.command {
        Some(Command::Push(args)) if args.to.is_empty() => cli.hosts.clone(),
        Some(Command::Push(args)) => args.to.clone(),
        _ => Vec::new(),
    };
    sources.store = match &cli.command {
        Some(Command::Engine { store, .. }) => store.clone(),
        _ => cli.store.clone(),
    };
    let pairs = cli.option.chunks_exact(2);
    sources.options = pairs.map(|p| (p[0].clone(), p[1].clone())).collect();
    let (mut config, warnings) = Config::load(sources)?;
    make_paths_absolute(&mut config);
    Ok((config, warnings))
}

/// Makes relative file names absolute: neither ssh nor an engine runs in the current folder.
fn make_paths_absolute(config: &mut Config) {
    let Some(folder) = ipc::current_folder() else {
        return;
    };
    config.ssh_options = make_absolute(&config.ssh_options, &folder);
    for host in config.hosts.iter_mut().chain(&mut config.push_hosts) {
        let key = host.ssh_key.as_ref().and_then(|key| key.to_str());
        if let Some(key) = key.and_then(|key| make_file_absolute(key, &folder)) {
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

/// The listening socket that is standard input, where another process has made one for this one.
fn inherited_socket() -> io::Result<Option<OwnedFd>> {
    let stdin = io::stdin();
    match sockets::is_listening(&stdin) {
        true => Ok(Some(stdin.as_fd().try_clone_to_owned()?)),
        false => Ok(None),
    }
}
