//! The doors that Nix opens: each with an engine behind it, where one can be had.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, configuration};
use crate::cli::{Cli, LogFormat};
use crate::commands::engine;
use crate::config::{Config, Shown};
use crate::front::{
    self, Alone, AttachedBackend, ForHosts, HostsBackend, LocalBackend, OwnLoginBackend, Source,
    Splice,
};
use crate::ipc::{Identity, Launcher, MessageDedup, connect_or_spawn};
use crate::local_store::LocalStore;
use crate::progress::{Display, Mode};
use crate::report;
use crate::transfer::progress::{NoProgress, Progress};
use crate::wire::serve::Version;

/// How long an engine that is at work may be silent: at least and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// How long a warning counts as shown that a `--substitute` has shown and that has ended since: the next path of the
/// same command has a process of its own.
const SHOWN_FOR: Duration = Duration::from_secs(60);

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
    let answers = Answers::of(cli, config, Arc::new(NoProgress), Asks::Much).await;
    let served = front::query(front::stdin(), front::stdout(), answers.source()).await;
    answers.flush().await;
    Ok(served?)
}

/// `--substitute`. The line that has to come whatever happens comes from the door itself, so it is
/// entered even without a configuration, which then has no hosts.
pub(super) async fn substitute(
    cli: &Cli,
    path: &Path,
    dest: &Path,
    display: &Arc<Display>,
) -> Outcome {
    show_once(display, SHOWN_FOR);
    let config = usable(cli);
    if let Some(mode) = of_transfer(cli, config.progress) {
        display.set_mode(mode);
    }
    let answers = Answers::of(cli, config, display.clone(), Asks::Once).await;
    let path = path.to_string_lossy();
    let substituted = front::substitute(&path, dest, front::stdout(), answers.source()).await;
    answers.flush().await;
    Ok(substituted?)
}

/// `--serve`. Without a usable configuration it serves nothing rather than to end: a program that
/// ends stops the whole command of today's Nix.
pub(super) async fn serve(cli: &Cli, display: &Arc<Display>) -> Outcome {
    display.share_terminal();
    if front::is_read_by_lix() {
        display.messages_as_nix();
    }
    show_once(display, Duration::ZERO);
    let config = usable(cli);
    display.set_mode(beside_nix(cli, config.progress));
    let answers = Answers::of(cli, config, display.clone(), Asks::AsACommand).await;
    let (input, output) = (front::stdin(), front::stdout());
    let served = front::serve(input, output, answers.source(), Version::NEWEST).await;
    answers.flush().await;
    Ok(served?)
}

pub(super) async fn serve_local(store: &str) -> Outcome {
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

/// How `--substitute` shows its transfer, if not as a matter of course: with bars where a person has started it in a
/// terminal, with lines in the pipe that Nix reads, which takes a substituter that says nothing to be hung.
fn of_transfer(cli: &Cli, setting: Shown) -> Option<Mode> {
    match setting {
        // Who types is heard before what is configured.
        _ if cli.quiet || cli.log_format.is_some() => None,
        Shown::Auto => None,
        Shown::Plain => Some(Mode::Plain),
        Shown::Never => Some(Mode::Off),
    }
}

/// How `--serve` shows transfers: never with bars, since Nix has one of its own in the same terminal, and tells
/// by it what this program would.
fn beside_nix(cli: &Cli, setting: Shown) -> Mode {
    match (cli.log_format, setting) {
        _ if cli.quiet => Mode::Off,
        (Some(LogFormat::InternalJson), _) => Mode::Json,
        (Some(LogFormat::Raw), _) | (None, Shown::Plain) => Mode::Plain,
        (Some(LogFormat::Bar), _) | (None, Shown::Auto | Shown::Never) => Mode::Off,
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

/// What a process asks for.
#[derive(Clone, Copy)]
enum Asks {
    /// One path, as one of many processes.
    Once,
    /// As many as Nix 1.x likes, which may start several such processes for one command.
    Much,
    /// All that one command of a person wants.
    AsACommand,
}

/// Where a door's answers come from.
enum Answers {
    Attached(AttachedBackend),
    OwnLogin(OwnLoginBackend),
    Alone(HostsBackend),
}

impl Answers {
    /// From an engine, if that may be and can be.
    async fn of(cli: &Cli, config: Config, progress: Arc<dyn Progress>, asks: Asks) -> Self {
        let patience = config.stall_timeout.clamp(PATIENCE.0, PATIENCE.1);
        let shared = config.clone().without_client_agent();
        let client = match may_share(&shared) {
            Ok(()) => {
                let (identity, caller) = (Identity::of_process(&shared), caller());
                let met = connect_or_spawn(&identity, &launcher(cli), caller, patience).await;
                met.map_err(|error| report::line(&error))
            }
            Err(reason) => Err(reason.to_owned()),
        };
        let config = Arc::new(config);
        let (shown, all) = (progress.clone(), config.clone());
        let alone: Alone = Box::new(move || self::alone(&all, shown.clone(), asks));
        match client {
            Ok(client) => {
                let shown = progress.clone();
                let attached = AttachedBackend::new(client, alone, progress, Splice::stdout());
                if !config.is_client_agent {
                    return Self::Attached(attached);
                }
                let for_hosts: ForHosts = Box::new(move |names| {
                    let mut some = Config::clone(&config);
                    some.hosts.retain(|host| names.contains(&host.to_string()));
                    self::alone(&some, shown.clone(), asks)
                });
                Self::OwnLogin(OwnLoginBackend::new(attached, for_hosts))
            }
            Err(reason) => {
                log::debug!("works without an engine: {reason}");
                Self::Alone(alone())
            }
        }
    }

    fn source(&self) -> &dyn Source {
        match self {
            Self::Attached(backend) => backend,
            Self::OwnLogin(backend) => backend,
            Self::Alone(backend) => backend,
        }
    }

    async fn flush(&self) {
        match self {
            Self::Attached(backend) => backend.flush().await,
            Self::OwnLogin(backend) => backend.flush().await,
            Self::Alone(backend) => backend.flush().await,
        }
    }
}

/// Whether an engine may serve this.
fn may_share(config: &Config) -> Result<(), &'static str> {
    if !config.engine {
        Err("it is switched off")
    } else if config.is_untrusted_choice {
        // What an unprivileged client chose is for itself alone.
        Err("hosts are the choice of an unprivileged user")
    } else if config.hosts.is_empty() {
        Err("there are no hosts")
    } else {
        Ok(())
    }
}

fn alone(config: &Config, progress: Arc<dyn Progress>, asks: Asks) -> HostsBackend {
    let engine = engine(config, None);
    match asks {
        Asks::Once => engine.resolver.ask_no_more_than_needed(),
        Asks::Much => {}
        Asks::AsACommand => engine.pool().new_command(),
    }
    engine.backend(Arc::new(engine.transfers.caller()), progress)
}

/// Leaves out what another process of the same command has shown: as long as that lives, and a warning `linger` after
/// it was shown, whatever has become of that process.
fn show_once(display: &Display, linger: Duration) {
    let shown = MessageDedup::new(caller());
    display.filter_messages(move |level, text| {
        let linger = match level {
            log::Level::Error => Duration::ZERO,
            _ => linger,
        };
        shown.should_show(&format!("{level} {text}"), linger)
    });
}

/// What all our processes have in common that one Nix has started.
fn caller() -> u64 {
    let parent = rustix::process::getppid();
    parent.map_or(0, |parent| {
        parent.as_raw_nonzero().get().unsigned_abs().into()
    })
}

/// How an engine with the configuration of this process is started.
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
