//! `get`: closures into a folder, a binary cache or this machine's store.
//!
//! ```text
//! arguments -> paths -> plan: what is there, what hosts have -> fetcher: several at a time -> destination
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `paths` | from arguments to store paths |
//! | `plan` | the closure: what is there, what is to be fetched, in which order, what is missing |
//! | `fetcher` | fetches, references first |
//! | `destination` | a folder, a binary cache, or this machine's store |
//! | `host_totals` | how much came from which host |
//! | `interrupted` | the message when a run is interrupted |
//! | `error` | what can go wrong |
//!
//! It works with an engine of its own, in this process, which lives as long as the command; ssh connections are those that
//! all commands share.

mod destination;
mod error;
mod fetcher;
mod host_totals;
mod interrupted;
mod paths;
mod plan;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

pub use error::{GetError, NixError};
pub(super) use paths::store_path;

use super::format::{are, counted, counted_of, ways};
use super::{Status, engine, print};
use crate::cli::Get;
use crate::commands::run_guard::RunGuard;
use crate::config::Config;
use crate::engine::Engine;
use crate::model::StorePath;
use crate::progress::{Display, text};
use crate::report;
use crate::transfer::progress::Progress;
use destination::argument::ToArgument;
use destination::binary_cache::BinaryCache;
use destination::folder::Folder;
use destination::nix_store::NixStore;
use destination::{Destination, Nowhere};
use fetcher::Fetcher;
use host_totals::HostTotals;
use interrupted::RunTotals;
use plan::{Missing, Plan};

/// Exit status when the command line is wrong.
const EXIT_USAGE: u8 = 2;
/// Exit status when no host has some path.
const EXIT_ABSENT: u8 = 3;
/// Exit status when a host has it, but it did not arrive.
const EXIT_UNDELIVERED: u8 = 4;

/// How many missing paths are reported one by one.
const MAX_MISSING_REPORTED: usize = 10;

/// Fetches what `args` ask for, and prints those of the paths asked for that are there in the end.
///
/// # Errors
/// When it cannot begin, or what is fetched cannot be put where it belongs.
pub async fn get(args: &Get, config: &Config, display: &Arc<Display>) -> Status {
    let (wanted, to) = match parse(args, config) {
        Ok(parsed) => parsed,
        Err(error) if error.is_usage() => {
            report::error(&error);
            return Ok(EXIT_USAGE);
        }
        Err(error) => return Err(error.into()),
    };
    if !config.enabled {
        return Err("switched off by use-ssh-substituter = false".into());
    }
    if config.hosts.is_empty() {
        return Err("no hosts to ask: see --host and ssh-substituter-hosts".into());
    }
    let started = Instant::now();
    let guard = RunGuard::<RunTotals>::new();
    let totals = guard.totals.clone();
    let code = fetch(
        args,
        config,
        display,
        to.as_ref(),
        &wanted,
        (started, &totals),
    )
    .await;
    guard.end();
    code
}

/// The paths that are wanted, and where `--to` puts them.
fn parse(args: &Get, config: &Config) -> Result<(Vec<StorePath>, Option<ToArgument>), GetError> {
    let path = |given: &String| paths::store_path(given, &config.store_dir);
    let wanted = args.paths.iter().map(path).collect::<Result<_, _>>()?;
    let to = args.to.as_deref().map(ToArgument::parse).transpose()?;
    Ok((wanted, to))
}

async fn fetch(
    args: &Get,
    config: &Config,
    display: &Arc<Display>,
    to: Option<&ToArgument>,
    wanted: &[StorePath],
    (started, totals): (Instant, &Arc<RunTotals>),
) -> Status {
    let destination = open(args, config, to).await?;
    let mut engine = engine(&with_bases(config, to), None);
    if let Some(folder) = destination.folder() {
        engine.keep_partials_in(folder, config);
    }
    engine.pool().new_command();
    if args.no_closure {
        engine.resolver.disable_prefetch();
    }
    let closure = !args.no_closure;
    let plan = Plan::new(&engine.resolver, &*destination, wanted, closure).await?;
    report_missing(&plan.missing, &engine);
    let absent = !plan.incomplete.is_empty();
    if args.dry_run {
        let text = preview(&plan, config);
        engine.resolver.flush().await;
        print(&text).await?;
        return Ok(if absent { EXIT_ABSENT } else { 0 });
    }
    let roots = plan.roots.clone();
    let lacking = carry_out(plan, &engine, destination, display, (started, totals)).await;
    engine.resolver.flush().await;
    let lacking = lacking?;
    // Bars would mix with what is printed now.
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
        (false, _) => EXIT_UNDELIVERED,
        (true, true) => EXIT_ABSENT,
        (true, false) => 0,
    })
}

async fn open(
    args: &Get,
    config: &Config,
    to: Option<&ToArgument>,
) -> Result<Arc<dyn Destination>, GetError> {
    let dry_run = args.dry_run;
    let dir = &config.store_dir;
    Ok(match to {
        Some(ToArgument::Folder(folder)) => {
            Arc::new(Folder::open(folder, dir, !args.no_closure, dry_run).await?)
        }
        Some(ToArgument::Cache(folder)) => Arc::new(BinaryCache::open(folder, dir, dry_run).await?),
        None if args.into_store => Arc::new(NixStore::open(config.stall_timeout)?),
        None => Arc::new(Nowhere),
    })
}

/// The configuration, where a folder that is filled may have older versions of what is fetched.
fn with_bases<'a>(config: &'a Config, to: Option<&ToArgument>) -> Cow<'a, Config> {
    let folder = match to {
        Some(ToArgument::Folder(folder)) => std::path::absolute(folder),
        Some(ToArgument::Cache(_)) | None => return Cow::Borrowed(config),
    };
    let mut config = config.clone();
    config.delta_bases.extend(folder);
    Cow::Owned(config)
}

/// Fetches what is planned. Returns what is not there in the end.
async fn carry_out(
    plan: Plan,
    engine: &Engine,
    destination: Arc<dyn Destination>,
    display: &Arc<Display>,
    (started, totals): (Instant, &Arc<RunTotals>),
) -> Result<HashSet<StorePath>, GetError> {
    let (planned, there, bytes) = (plan.fetch.len(), plan.there.len(), plan.bytes());
    let host_totals = Arc::new(HostTotals::new(display.clone()));
    totals.plan(planned, bytes);
    totals.keeps_in(&engine.transfers);
    if planned > 0 {
        display.show_wire_bytes(engine.transfers.wire_bytes());
        host_totals.expected(planned as u64, bytes);
        engine.resolver.download_begins();
        destination.begin().await?;
    }
    let fetcher = Fetcher {
        resolver: engine.resolver.clone(),
        transfers: engine.transfers.clone(),
        caller: Arc::new(engine.transfers.caller()),
        progress: host_totals.clone(),
        destination: destination.clone(),
        totals: totals.clone(),
    };
    let ran = fetcher.run(plan.fetch).await;
    // What was received counts, whatever became of the rest.
    let ended = destination.end().await;
    let lacking = ran?;
    ended?;
    let (paths, bytes) = totals.total();
    let hosts = engine.pool().hosts();
    let traffic = hosts.map(|host| engine.transfers.traffic(host)).sum();
    let ways = match ways(&traffic) {
        Some(ways) => format!(" ({ways})"),
        None => String::new(),
    };
    let from = match host_totals.hosts() {
        hosts if hosts.is_empty() => String::new(),
        hosts => format!(" from {hosts}"),
    };
    log::info!(
        "fetched {}, {} in {:.1} s{from}{ways}; {there} were there",
        counted_of(paths, planned.saturating_sub(paths)),
        text::size(bytes),
        started.elapsed().as_secs_f64(),
    );
    if !lacking.is_empty() && engine.transfers.kept(true) > 0 {
        log::info!(
            "{} of what did not come whole is kept: the same command goes on from there",
            text::size(engine.transfers.kept(true))
        );
    }
    Ok(lacking)
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
        "total: {} to fetch, {}; {} there already",
        counted(plan.fetch.len() as u64, "path"),
        text::size(plan.bytes()),
        plan.there.len(),
    ));
    lines.join("\n")
}

fn report_missing(missing: &[Missing], engine: &Engine) {
    for Missing {
        path,
        wanted_by,
        circle,
    } in missing.iter().take(MAX_MISSING_REPORTED)
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
    if missing.len() > MAX_MISSING_REPORTED {
        let more = (missing.len() - MAX_MISSING_REPORTED) as u64;
        log::error!("{} {} missing", counted(more, "more path"), are(more));
    }
}
