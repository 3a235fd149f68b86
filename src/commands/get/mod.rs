//! `get`: closures into a folder, a binary cache or this machine's store.
//!
//! ```text
//! arguments -> paths -> plan: what is there, what hosts have -> run: several at a time -> destination
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `paths` | from arguments to store paths |
//! | `plan` | the closure: what is there, what is to be fetched, in which order, what is missing |
//! | `run` | fetches, references first |
//! | `destination` | what all places have in common |
//! | `folder` | `--to DIR` |
//! | `cache` | `--to file:///DIR` |
//! | `store` | `--into-store` |
//! | `place` | tells them apart |
//! | `feed`, `lock`, `watch` | a NAR for a thread, one run at a time, bytes by host |
//! | `interrupted` | what is said when a run is ended from outside |
//!
//! It works with an engine of its own, in this process, which lives as long as the command; ssh connections are those that
//! all commands share.

mod cache;
mod destination;
mod error;
mod feed;
mod folder;
mod interrupted;
mod lock;
mod paths;
mod place;
mod plan;
mod run;
mod store;
mod watch;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

pub use error::{GetError, NixError};

use super::{Status, engine, print};
use crate::cli::Get;
use crate::config::Config;
use crate::engine::Engine;
use crate::model::StorePath;
use crate::progress::{Display, text};
use crate::report;
use crate::transfer::progress::Progress;
use cache::Cache;
use destination::{Destination, Nowhere};
use folder::Folder;
use interrupted::{Lasting, SoFar};
use place::Place;
use plan::{Missing, Plan};
use run::Means;
use store::Store;
use watch::Watch;

/// Exit status when the command line is wrong.
const USAGE: u8 = 2;
/// Exit status when no host has some path.
const ABSENT: u8 = 3;
/// Exit status when a host has it, but it did not arrive.
const UNDELIVERED: u8 = 4;

/// How many missing paths are told one by one.
const SHOWN: usize = 10;

/// Fetches what `args` ask for, and prints those of the paths asked for that are there in the end.
///
/// # Errors
/// When it cannot begin, or what is fetched cannot be put where it belongs.
pub async fn get(args: &Get, config: &Config, display: &Arc<Display>) -> Status {
    match fetched(args, config, display).await {
        Err(error) if error.downcast_ref().is_some_and(GetError::is_usage) => {
            report::error(&*error);
            Ok(USAGE)
        }
        done => done,
    }
}

async fn fetched(args: &Get, config: &Config, display: &Arc<Display>) -> Status {
    let path = |given: &String| paths::store_path(given, &config.store_dir);
    let wanted: Vec<_> = args.paths.iter().map(path).collect::<Result<_, _>>()?;
    let place = args.to.as_deref().map(Place::parse).transpose()?;
    if !config.enabled {
        return Err("switched off by use-ssh-substituter = false".into());
    }
    if config.hosts.is_empty() {
        return Err("no hosts to ask: see --host and ssh-substituter-hosts".into());
    }
    let started = Instant::now();
    let lasting = Lasting::new();
    let so_far = lasting.so_far.clone();
    let code = fetch(
        args,
        config,
        display,
        place.as_ref(),
        &wanted,
        (started, &so_far),
    )
    .await;
    lasting.end();
    code
}

async fn fetch(
    args: &Get,
    config: &Config,
    display: &Arc<Display>,
    place: Option<&Place>,
    wanted: &[StorePath],
    (started, so_far): (Instant, &Arc<SoFar>),
) -> Status {
    let destination = open(args, config, place).await?;
    let engine = engine(config, None);
    engine.pool().new_command();
    if args.no_closure {
        engine.resolver.disable_prefetch();
    }
    let closure = !args.no_closure;
    let plan = Plan::new(&engine.resolver, &*destination, wanted, closure).await?;
    tell_missing(&plan.missing, &engine);
    let absent = !plan.incomplete.is_empty();
    if args.dry_run {
        let text = preview(&plan, config);
        engine.resolver.flush().await;
        print(&text).await?;
        return Ok(if absent { ABSENT } else { 0 });
    }
    let roots = plan.roots.clone();
    let lacking = carry_out(plan, &engine, destination, display, (started, so_far)).await;
    engine.resolver.flush().await;
    let lacking = lacking?;
    // Bars stand where this is going to be printed.
    display.close();
    let there = roots.iter().filter(|path| !lacking.contains(path));
    let text: String = there.map(|path| format!("{path}\n")).collect();
    if !text.is_empty()
        && let Err(error) = print(&text).await
    {
        // Nobody needs to read it: the paths are there.
        log::debug!("cannot print: {error}");
    }
    Ok(match (lacking.is_empty(), absent) {
        (false, _) => UNDELIVERED,
        (true, true) => ABSENT,
        (true, false) => 0,
    })
}

async fn open(
    args: &Get,
    config: &Config,
    place: Option<&Place>,
) -> Result<Arc<dyn Destination>, GetError> {
    let look = args.dry_run;
    let dir = &config.store_dir;
    Ok(match place {
        Some(Place::Folder(folder)) => {
            Arc::new(Folder::open(folder, dir, !args.no_closure, look).await?)
        }
        Some(Place::Cache(folder)) => Arc::new(Cache::open(folder, dir, look).await?),
        None if args.into_store => Arc::new(Store::open(config.stall_timeout)?),
        None => Arc::new(Nowhere),
    })
}

/// Fetches what is planned. Gives what did not come.
async fn carry_out(
    plan: Plan,
    engine: &Engine,
    destination: Arc<dyn Destination>,
    display: &Arc<Display>,
    (started, so_far): (Instant, &Arc<SoFar>),
) -> Result<HashSet<StorePath>, GetError> {
    let (planned, there, bytes) = (plan.fetch.len(), plan.there.len(), plan.bytes());
    let watch = Arc::new(Watch::new(display.clone()));
    so_far.plan(planned, bytes);
    if planned > 0 {
        watch.expected(planned as u64, bytes);
        engine.resolver.download_begins();
        destination.begin().await?;
    }
    let means = Means {
        resolver: engine.resolver.clone(),
        transfers: engine.transfers.clone(),
        caller: Arc::new(engine.transfers.caller()),
        progress: watch.clone(),
        destination: destination.clone(),
        so_far: so_far.clone(),
    };
    let ran = means.run(plan.fetch).await;
    // What has come counts, whatever became of the rest.
    let ended = destination.end().await;
    let done = ran?;
    ended?;
    let (paths, bytes) = so_far.total();
    let of = if paths == planned {
        String::new()
    } else {
        format!(" of {planned}")
    };
    let from = match watch.hosts() {
        hosts if hosts.is_empty() => String::new(),
        hosts => format!(" from {hosts}"),
    };
    log::info!(
        "fetched {}{of} paths, {} in {}{from}; {there} were there",
        paths,
        text::size(bytes),
        seconds(started),
    );
    Ok(done.lacking)
}

fn seconds(started: Instant) -> String {
    format!("{:.1} s", started.elapsed().as_secs_f64())
}

/// What would be fetched, with bytes of the NAR and the host, and what is there.
fn preview(plan: &Plan, config: &Config) -> String {
    let mut lines = Vec::new();
    for path in &plan.there {
        lines.push(format!("{path}\tthere already"));
    }
    for found in &plan.fetch {
        let host = found.holders.first();
        let host = host.and_then(|host| config.hosts.get(host.index()));
        let host = host.map(ToString::to_string).unwrap_or_default();
        let size = text::size(found.info.nar_size);
        lines.push(format!("{}\t{size}\t{host}", found.info.path));
    }
    lines.push(format!(
        "total: {} paths to fetch, {}; {} there already",
        plan.fetch.len(),
        text::size(plan.bytes()),
        plan.there.len(),
    ));
    lines.join("\n")
}

fn tell_missing(missing: &[Missing], engine: &Engine) {
    for Missing {
        path,
        wanted_by,
        circle,
    } in missing.iter().take(SHOWN)
    {
        let what = match circle {
            true => format!(
                "{path} cannot be fetched: its hosts report that it refers to itself in a circle"
            ),
            false => engine.resolver.not_found(path).to_string(),
        };
        match wanted_by {
            Some(other) => log::error!("{what}; {other} refers to it"),
            None => log::error!("{what}"),
        }
    }
    if missing.len() > SHOWN {
        log::error!("{} more paths are missing", missing.len() - SHOWN);
    }
}
