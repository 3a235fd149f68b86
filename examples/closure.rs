//! A closure, fetched by a program of one's own.
//!
//! ```text
//! cargo run --example closure                         from two demo stores on this machine, without ssh
//! cargo run --example closure -- DIR PATH HOST...     PATH and all it refers to into DIR/nix/store, from these hosts
//! ```

mod demo;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use ssh_substituter::config::{Config, Host, Sources};
use ssh_substituter::engine::{Engine, shared_disk, ssh_transport};
use ssh_substituter::hint::Hint;
use ssh_substituter::model::StorePath;
use ssh_substituter::pool::Notify;
use ssh_substituter::progress::{Display, Mode, level};
use ssh_substituter::report;
use ssh_substituter::resolver::Found;
use ssh_substituter::transfer::unpack::Unpacker;
use ssh_substituter::transfer::{Caller, FetchRequest, NarSink, Piece, Transfers};
use tokio::task::{JoinSet, block_in_place};

use demo::{Outcome, say};

/// How many paths are restored at a time. More channels than that are at work: the engine reads ahead.
const AT_A_TIME: usize = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match (demo::serves(), &args[..]) {
        (Some(root), _) => demo::serve(&root).await,
        (None, []) => from_demo_stores().await,
        (None, [dir, path, hosts @ ..]) if !hosts.is_empty() => from_hosts(dir, path, hosts).await,
        (None, _) => Err("expected nothing, or DIR PATH HOST...".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", report::message(&*error));
            ExitCode::FAILURE
        }
    }
}

/// From hosts behind ssh, with everything else as it is configured on this machine.
async fn from_hosts(dir: &str, path: &str, hosts: &[String]) -> Outcome {
    let mut sources = Sources::from_process();
    sources.hosts = hosts.to_vec();
    let (config, warnings) = Config::load(sources)?;
    let display = display();
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let engine = Engine::new(
        &config,
        ssh_transport(&config),
        notify(),
        Some(shared_disk()),
    );
    fetch(&engine, &StorePath::parse(path)?, Path::new(dir), &display).await
}

/// From two "hosts" that this example makes. Neither has everything that the other one has.
async fn from_demo_stores() -> Outcome {
    let folder = tempfile::tempdir()?;
    let paths = demo::paths(4 << 20);
    demo::make_store(&folder.path().join("first"), &paths[..20])?;
    demo::make_store(&folder.path().join("second"), &paths)?;
    let mut config = Config::without_hosts();
    config.hosts = vec![
        Host::parse("ssh://first?trusted=true")?,
        Host::parse("ssh://second?trusted=true")?,
    ];
    let transport = Arc::new(demo::transport(folder.path())?);
    let engine = Engine::new(&config, transport, notify(), None);
    let root = &paths.last().ok_or("no paths")?.path;
    fetch(&engine, root, &folder.path().join("fetched"), &display()).await
}

/// Progress and messages, on stderr.
fn display() -> Arc<Display> {
    let display = Arc::new(Display::new(Mode::Auto));
    display.log_to_stderr(level(0, false));
    display
}

/// Trouble with one host: others may have the path, so it is told and nothing more.
fn notify() -> Notify {
    Arc::new(|error: &(dyn Hint + 'static)| report::warn(error))
}

/// The whole job: find the closure, say what is going to be fetched, fetch it.
async fn fetch(engine: &Engine, root: &StorePath, dir: &Path, display: &Arc<Display>) -> Outcome {
    let closure = engine
        .resolver
        .closure(std::slice::from_ref(root), false)
        .await?;
    let found = engine.resolver.find(&closure).await;
    for path in found
        .iter()
        .flat_map(|found| &found.info.references)
        .chain([root])
    {
        // Some host has it, or it would be no closure.
        if !found.iter().any(|found| found.info.path == *path) {
            return Err(engine.resolver.not_found(path).into());
        }
    }
    let bytes: u64 = found.iter().map(|found| found.info.nar_size).sum();
    say(&format!("{} paths, {} bytes", found.len(), bytes));

    // From here on the engine knows what is wanted next, and reads ahead.
    engine.resolver.download_begins();
    let caller = Arc::new(engine.transfers.caller());
    for found in &found {
        caller.expect(&found.info, &found.holders);
    }
    let store = dir.join("nix/store");
    std::fs::create_dir_all(&store)?;
    let mut running = JoinSet::new();
    for found in found {
        let dest = store.join(found.info.path.base_name());
        let (transfers, caller) = (engine.transfers.clone(), caller.clone());
        let (display, path) = (display.clone(), found.info.path.clone());
        if running.len() == AT_A_TIME {
            finished(running.join_next().await)?;
        }
        running.spawn(async move {
            let restored = restore(&transfers, &caller, &found, dest, &display).await;
            restored.map_err(|error| error.to_string())?;
            say(&format!("{path}"));
            Ok(())
        });
    }
    while !running.is_empty() {
        finished(running.join_next().await)?;
    }
    engine.resolver.flush().await;
    say(&format!("all of it is in {}", store.display()));
    Ok(())
}

type Joined = Option<Result<Result<(), String>, tokio::task::JoinError>>;

fn finished(joined: Joined) -> Outcome {
    match joined {
        Some(result) => Ok(result??),
        None => Ok(()),
    }
}

/// One path. Its hash and size are checked while it comes; until they are right it has another name.
async fn restore(
    transfers: &Transfers,
    caller: &Caller,
    found: &Found,
    dest: PathBuf,
    progress: &Display,
) -> Result<(), Box<dyn Error>> {
    let mut disk = Disk(Unpacker::new(&dest, found.info.nar_size)?);
    let wish = FetchRequest {
        info: &found.info,
        holders: &found.holders,
        caller,
        resume: None,
        progress,
    };
    let fetched = transfers.fetch(wish, &mut disk).await;
    fetched.map_err(|failed| failed.error)?;
    block_in_place(|| disk.0.commit())?;
    Ok(())
}

/// Where the pieces of a NAR go.
struct Disk(Unpacker);

#[async_trait]
impl NarSink for Disk {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        block_in_place(|| self.0.write(&piece.bytes)).map_err(io::Error::other)
    }
}
