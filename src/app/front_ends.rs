//! The front ends that Nix starts: each with an engine behind it if possible.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, configuration, load};
use crate::backend::{
    Backend, EngineBackend, HostsBackend, LocalBackend, MakeDirect, MakeForHosts, OwnLoginBackend,
};
use crate::cli::{Cli, Command, LogFormat};
use crate::commands::{QueueSender, engine};
use crate::config::{Config, ConfigError, ProgressMode};
use crate::front;
use crate::ipc::{Identity, Launcher, MessageDedup, connect_or_spawn};
use crate::local_store::LocalStore;
use crate::progress::{Display, Mode};
use crate::report;
use crate::serve::{self, Output};
use crate::transfer::progress::{NoProgress, Progress};
use crate::wire::serve::Version;

/// The least and the most that `stall-timeout` counts for an engine: how long it may be silent while it works.
const ENGINE_SILENCE_TIMEOUT: (Duration, Duration) =
    (Duration::from_secs(2), Duration::from_secs(10));

/// How long after its end a `--substitute` still suppresses the warnings it has shown: the next path of the same command
/// has a process of its own.
const WARNING_LINGER: Duration = Duration::from_secs(60);

/// `--query`. A program that may not be used, or cannot be, ends before its first line and with
/// status 0: to Nix 1.x that means "disabled", anything else would stop its whole command.
pub(super) async fn query(cli: &Cli, display: &Display) -> Outcome {
    display.share_terminal();
    display.named_by_reader();
    show_once(display, Duration::ZERO);
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
    let backend = backend(cli, config, Arc::new(NoProgress), Usage::ManyPaths).await;
    let served = front::query(front::stdin(), front::stdout(), &*backend).await;
    backend.flush().await;
    Ok(served?)
}

/// `--substitute`. Runs even with a broken configuration, then without hosts: the first line of output must come in any
/// case.
pub(super) async fn substitute(
    cli: &Cli,
    path: &Path,
    dest: &Path,
    display: &Arc<Display>,
) -> Outcome {
    show_once(display, WARNING_LINGER);
    let config = usable(cli);
    if let Some(mode) = substitute_mode(cli, config.progress) {
        display.set_mode(mode);
    }
    let backend = backend(cli, config, display.clone(), Usage::OnePath).await;
    let path = path.to_string_lossy();
    let substituted = front::substitute(&path, dest, front::stdout(), &*backend).await;
    backend.flush().await;
    Ok(substituted?)
}

/// `--serve`. Without a usable configuration it reports every path as absent: if it ended, Nix 2 would stop its whole
/// command.
pub(super) async fn serve(cli: &Cli, display: &Arc<Display>) -> Outcome {
    display.share_terminal();
    if front::is_read_by_lix() {
        display.messages_as_nix();
    }
    show_once(display, Duration::ZERO);
    let config = usable(cli);
    display.set_mode(serve_mode(cli, config.progress));
    let backend = backend(cli, config, display.clone(), Usage::WholeCommand).await;
    let (input, output) = (front::stdin(), front::serve_output());
    let served = serve::serve(input, output, &*backend, Version::NEWEST).await;
    backend.flush().await;
    Ok(served?)
}

/// `serve-local`: answers from the Nix store on this machine.
pub(super) async fn serve_local(store: &str) -> Outcome {
    let root = crate::commands::store_root(store);
    let store = tokio::task::spawn_blocking(move || LocalStore::open(&root)).await??;
    let backend = LocalBackend::new(store);
    let output = Output::new(front::stdout());
    serve::serve(front::stdin(), output, &backend, Version::NEWEST).await?;
    Ok(())
}

/// How `--substitute` shows its transfer. `None` keeps the default: bars in a terminal, lines in a pipe. Nix reads that
/// pipe, and takes a silent substituter to be hung.
fn substitute_mode(cli: &Cli, setting: ProgressMode) -> Option<Mode> {
    match setting {
        // Flags precede settings.
        _ if cli.quiet || cli.log_format.is_some() => None,
        ProgressMode::Auto => None,
        ProgressMode::Plain => Some(Mode::Plain),
        ProgressMode::Never => Some(Mode::Off),
    }
}

/// How `--serve` shows transfers: never with bars, since Nix draws one of its own in the same terminal.
fn serve_mode(cli: &Cli, setting: ProgressMode) -> Mode {
    match (cli.log_format, setting) {
        _ if cli.quiet => Mode::Off,
        (Some(LogFormat::InternalJson), _) => Mode::Json,
        (Some(LogFormat::Raw), _) | (None, ProgressMode::Plain) => Mode::Plain,
        (Some(LogFormat::Bar), _) | (None, ProgressMode::Auto | ProgressMode::Never) => Mode::Off,
    }
}

/// The configuration, without hosts when it is wrong or the program is switched off.
fn usable(cli: &Cli) -> Config {
    let mut config = match configuration(cli) {
        Ok(config) => config,
        Err(error) => {
            report::error(&error);
            return Config::without_hosts();
        }
    };
    if !config.enabled {
        config.hosts.clear();
    }
    if config.hosts.is_empty() {
        log::warn!("no hosts to ask: see ssh-substituter-hosts and use-ssh-substituter");
    }
    config
}

/// What Nix starts a process for.
#[derive(Clone, Copy)]
enum Usage {
    /// One path, as one of many processes.
    OnePath,
    /// Many paths; Nix 1.x may start several such processes for one command.
    ManyPaths,
    /// Everything that one command of a user needs.
    WholeCommand,
}

/// The backend behind a front end: an engine, if one may serve it and can be reached.
async fn backend(
    cli: &Cli,
    config: Config,
    progress: Arc<dyn Progress>,
    usage: Usage,
) -> Box<dyn Backend> {
    let (shortest, longest) = ENGINE_SILENCE_TIMEOUT;
    let silence_timeout = config.stall_timeout.clamp(shortest, longest);
    let shared = config.clone().without_client_agent();
    let client = match may_use_engine(&shared) {
        Ok(()) => {
            let (identity, caller) = (Identity::of_process(&shared), caller_id());
            let launcher = launcher(cli);
            let client = connect_or_spawn(&identity, &launcher, caller, silence_timeout).await;
            client.map_err(|error| report::line(&error))
        }
        Err(reason) => Err(reason.to_owned()),
    };
    let client = match client {
        Ok(client) => client,
        Err(reason) => {
            log::debug!("works without an engine: {reason}");
            return Box::new(direct(&config, progress, usage));
        }
    };
    let config = Arc::new(config);
    let (all, shown) = (config.clone(), progress.clone());
    let make_direct: MakeDirect = Box::new(move || direct(&all, shown.clone(), usage));
    let engine = EngineBackend::new(client, make_direct, progress.clone());
    if !config.is_client_agent {
        return Box::new(engine);
    }
    let make_for_hosts: MakeForHosts = Box::new(move |names| {
        let mut some = Config::clone(&config);
        some.hosts.retain(|host| names.contains(&host.to_string()));
        direct(&some, progress.clone(), usage)
    });
    Box::new(OwnLoginBackend::new(engine, make_for_hosts))
}

/// Whether an engine may serve this configuration, or why not.
fn may_use_engine(config: &Config) -> Result<(), &'static str> {
    if config.hosts.is_empty() {
        return Err("there are no hosts");
    }
    may_have_engine(config)
}

/// Whether there may be an engine with this configuration, or why not.
fn may_have_engine(config: &Config) -> Result<(), &'static str> {
    if !config.engine {
        Err("it is switched off")
    } else if config.is_untrusted_choice {
        // An engine serves all clients; this choice is only for the one that made it.
        Err("hosts are the choice of an unprivileged user")
    } else {
        Ok(())
    }
}

/// Who sends what is queued to be pushed: the engine that serves this user's front ends, or this process.
pub(super) fn queue_sender(cli: &Cli) -> Result<QueueSender, ConfigError> {
    // The hosts of one push do not make another engine.
    let mut plain = cli.clone();
    if let Some(Command::Push(push)) = &mut plain.command {
        push.to.clear();
    }
    let config = load(&plain)?.0.without_client_agent();
    Ok(match may_have_engine(&config) {
        Ok(()) => QueueSender::Engine(Identity::of_process(&config), launcher(&plain)),
        Err(reason) => {
            log::debug!("works without an engine: {reason}");
            QueueSender::Here(Box::new(config))
        }
    })
}

/// A backend that asks the hosts from this process.
fn direct(config: &Config, progress: Arc<dyn Progress>, usage: Usage) -> HostsBackend {
    let engine = engine(config, None);
    match usage {
        Usage::OnePath => engine.resolver.disable_prefetch(),
        Usage::ManyPaths => {}
        Usage::WholeCommand => engine.pool().new_command(),
    }
    engine.backend(Arc::new(engine.transfers.caller()), progress)
}

/// Leaves out messages that another process of the same command has shown: while that process runs, and a warning for
/// `linger` after it was shown.
fn show_once(display: &Display, linger: Duration) {
    let dedup = MessageDedup::new(caller_id());
    display.filter_messages(move |level, text| {
        let linger = match level {
            log::Level::Error => Duration::ZERO,
            _ => linger,
        };
        dedup.should_show(&format!("{level} {text}"), linger)
    });
}

/// The same number in all processes that one Nix has started: its process id.
fn caller_id() -> u64 {
    let parent = rustix::process::getppid();
    parent.map_or(0, |parent| {
        parent.as_raw_nonzero().get().unsigned_abs().into()
    })
}

/// Starts an engine with the configuration of this process.
fn launcher(cli: &Cli) -> Launcher {
    let mut arguments: Vec<OsString> = vec!["engine".into()];
    for host in &cli.hosts {
        arguments.extend(["--host".into(), host.into()]);
    }
    for pair in cli.option.chunks_exact(2) {
        arguments.extend(["--option".into(), (&pair[0]).into(), (&pair[1]).into()]);
    }
    if let Some(store) = &cli.store {
        arguments.extend(["--among".into(), store.into()]);
    }
    Launcher { arguments }
}
