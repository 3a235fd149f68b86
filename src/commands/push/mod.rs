//! `push`: closures of the local store to hosts.
//!
//! | module | what it does |
//! | --- | --- |
//! | `summary` | what is printed in the end: text, JSON, a preview |
//! | `queue` | `push --queue` and `push --wait` |
//! | `interrupted` | the message when a run is interrupted |
//! | `error` | what can go wrong before anything is sent |

mod error;
mod interrupted;
mod queue;
mod summary;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::task::spawn_blocking;

pub use error::PushCommandError;
pub use queue::{QueueSender, push_queue, push_wait};
pub(in crate::commands) use queue::{queue_environment, queued_host};

use super::get::store_path;
use super::output::{print_json, print_json_error};
use super::run_guard::RunGuard;
use super::{Status, print, store_root};
use crate::cli::Push;
use crate::config::Config;
use crate::engine::push_pool;
use crate::front;
use crate::hint::Hint;
use crate::local_store::{LocalStore, LocalStoreError, StoreLayout};
use crate::model::StorePath;
use crate::progress::Display;
use crate::push::{
    self, PushError, PushOptions, PushProgress, PushReport, PushRequest, PushTotals,
    read_secret_key,
};
use crate::report;

/// Exit status when the command line is wrong.
const EXIT_USAGE: u8 = 2;
/// Exit status when the local store lacks some path.
const EXIT_ABSENT: u8 = 3;
/// Exit status when some host lacks something in the end.
const EXIT_UNSENT: u8 = 4;

/// Longest list of paths on standard input, in bytes.
const STDIN_MAX: u64 = 64 << 20;

/// Sends what `args` ask for, and prints those of the paths given that are there in the end.
///
/// # Errors
/// When it cannot begin.
pub async fn push(args: &Push, config: &Config, display: &Arc<Display>) -> Status {
    let status = prepare_and_send(args, config, display).await;
    match status {
        Err(error) if args.json => {
            let code = code_of(&error);
            print_json_error(report::line(&error)).await.map(|_| code)
        }
        Err(error) if code_of(&error) != 1 => {
            report::error(&error);
            Ok(code_of(&error))
        }
        Err(error) => Err(error.into()),
        Ok(done) => finish(args, display, done).await,
    }
}

/// The exit status where nothing could be sent.
fn code_of(error: &PushCommandError) -> u8 {
    match error {
        PushCommandError::Given(error) if error.is_usage() => EXIT_USAGE,
        PushCommandError::Push(PushError::NotValid(_))
        | PushCommandError::Push(PushError::Store(LocalStoreError::NotValid { .. })) => EXIT_ABSENT,
        _ => 1,
    }
}

/// What a push came to.
struct Done {
    report: PushReport,
    roots: Vec<StorePath>,
    seconds: f64,
}

async fn prepare_and_send(
    args: &Push,
    config: &Config,
    display: &Arc<Display>,
) -> Result<Done, PushCommandError> {
    let started = Instant::now();
    let roots = roots(args, config).await?;
    if !config.enabled {
        return Err(PushCommandError::SwitchedOff);
    }
    if config.push_hosts.is_empty() {
        return Err(PushCommandError::NoHosts);
    }
    let file = args.sign.as_deref().map(Path::new);
    let key = match file.or(config.push_signing_key.as_deref()) {
        Some(file) => {
            let file = file.to_owned();
            let key = spawn_blocking(move || read_secret_key(&file)).await;
            Some(Arc::new(key.map_err(PushError::Reading)??))
        }
        None => None,
    };
    let root = store_root(&args.store);
    let layout = StoreLayout::with_store_dir(&config.store_dir);
    let for_derivations = args.outputs;
    let open = move || open(&root, layout, roots, for_derivations);
    let (store, roots) = spawn_blocking(open).await.map_err(PushError::Reading)??;
    let store = Arc::new(store);
    let notify = Arc::new(|error: &(dyn Hint + 'static)| report::warn(error));
    let pool = push_pool(config, notify);
    let request = PushRequest {
        roots: roots.clone(),
        hosts: pool.hosts().collect(),
        options: PushOptions {
            closure: !args.no_closure,
            derivers: args.derivers,
            dry_run: args.dry_run,
            key,
            ..PushOptions::default()
        },
    };
    let guard = RunGuard::<PushTotals>::new();
    display.show_as_sent();
    let progress = PushProgress {
        transfers: display.clone(),
        totals: guard.totals.clone(),
    };
    let report = push::push(&request, &pool, &store, &progress).await;
    guard.end();
    Ok(Done {
        report: report?,
        roots,
        seconds: started.elapsed().as_secs_f64(),
    })
}

async fn finish(args: &Push, display: &Arc<Display>, done: Done) -> Status {
    let Done {
        report,
        roots,
        seconds,
    } = &done;
    // Bars would mix with what is printed now.
    display.close();
    summary::report_faults(report);
    let complete = report
        .hosts
        .iter()
        .filter(|host| host.is_complete())
        .count();
    let is_reached = report.hosts.iter().all(|host| host.error.is_none());
    let is_enough = match (args.any, args.dry_run) {
        (true, false) => complete > 0,
        (false, false) => complete == report.hosts.len(),
        (true, true) => report.hosts.iter().any(|host| host.error.is_none()),
        (false, true) => is_reached,
    };
    if args.json {
        print_json(&summary::json(report, *seconds)).await?;
    } else if args.dry_run {
        print(&summary::preview(report)).await?;
    } else {
        summary::log_hosts(report, *seconds);
        let there = summary::roots_there(report, roots, args.any);
        let text: String = there.map(|path| format!("{path}\n")).collect();
        if !text.is_empty()
            && let Err(error) = print(&text).await
        {
            // Nobody needs to read it: the paths are there.
            log::debug!("cannot print: {error}");
        }
    }
    Ok(if is_enough { 0 } else { EXIT_UNSENT })
}

/// The store with that root and layout, and these paths; with `for_derivations` their outputs in the place of derivations.
/// Blocks.
fn open(
    root: &Path,
    layout: StoreLayout,
    roots: Vec<StorePath>,
    for_derivations: bool,
) -> Result<(LocalStore, Vec<StorePath>), PushCommandError> {
    let store = LocalStore::open_with(root, layout).map_err(PushError::Store)?;
    let roots = match for_derivations {
        true => outputs(&store, roots)?,
        false => roots,
    };
    Ok((store, roots))
}

/// These paths, with their outputs in the place of derivations. Blocks.
fn outputs(store: &LocalStore, roots: Vec<StorePath>) -> Result<Vec<StorePath>, PushCommandError> {
    let mut all = Vec::new();
    for root in roots {
        let outputs = match root.is_derivation() {
            true => store.outputs(&root).map_err(PushError::Store)?,
            false => Vec::new(),
        };
        match outputs.is_empty() {
            true => all.push(root),
            false => all.extend(outputs),
        }
    }
    Ok(all)
}

/// The paths that are given as arguments and on standard input, each once, in their order.
async fn roots(args: &Push, config: &Config) -> Result<Vec<StorePath>, PushCommandError> {
    let mut given = args.paths.clone();
    if args.stdin {
        let mut text = String::new();
        let mut stdin = front::stdin().take(STDIN_MAX);
        let read = stdin.read_to_string(&mut text).await;
        read.map_err(PushCommandError::Stdin)?;
        if text.len() as u64 == STDIN_MAX {
            return Err(PushCommandError::LongStdin(STDIN_MAX));
        }
        given.extend(text.split_whitespace().map(str::to_owned));
    }
    let (mut roots, mut seen) = (Vec::new(), BTreeSet::new());
    for given in &given {
        let path = store_path(given, &config.store_dir)?;
        if seen.insert(path.clone()) {
            roots.push(path);
        }
    }
    Ok(roots)
}
