//! The main job on a bare machine: no Nix, no sshd, no root.
//!
//! Two small stores are made and served by serve loops of their own as two "hosts"; a closure that
//! is spread over both is substituted through the whole engine and verified on disk.
//!
//! Run it with `cargo run --release --example quickstart`.

#[path = "../demo/mod.rs"]
mod demo;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};
use ssh_substituter::config::Config;
use ssh_substituter::config::host::Host;
use ssh_substituter::engine::Engine;
use ssh_substituter::front;
use ssh_substituter::hint::Hint;
use ssh_substituter::local_store::{Dump, LocalStore};
use ssh_substituter::model::{NarHash, StorePath};
use ssh_substituter::progress::{Display, Mode, level};
use ssh_substituter::report;

use demo::{Outcome, say};

/// How large three of the paths are, so that there is progress to see.
const LARGE: usize = 96 << 20;

#[tokio::main]
async fn main() -> ExitCode {
    let result = match demo::serves() {
        Some(root) => demo::serve(&root).await,
        None => quickstart().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", report::message(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn quickstart() -> Outcome {
    let display = Arc::new(Display::new(Mode::Auto));
    display.log_to_stderr(level(0, false));
    let folder = tempfile::tempdir()?;
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let dest = folder.path().join("restored");

    say("1. Making two demo stores with 31 store paths ...");
    let paths = demo::paths(LARGE);
    let root = paths.last().ok_or("no paths")?.path.clone();
    // The first host lacks the upper third of the graph; what it has is closed under references.
    demo::make_store(&first, &paths[..20])?;
    demo::make_store(&second, &paths)?;

    say("2. Starting a serve loop for each of them, as if they were hosts behind ssh ...");
    let mut config = Config::without_hosts();
    config.hosts = vec![
        Host::parse("ssh://first?trusted=true")?,
        Host::parse("ssh://second?trusted=true")?,
    ];
    let notify = Arc::new(|error: &(dyn Hint + 'static)| report::warn(error));
    let transport = Arc::new(demo::transport(folder.path())?);
    // Nothing is kept for later: these hosts are gone when this ends.
    let engine = Engine::new(&config, transport, notify, None);
    let backend = engine.backend(Arc::new(engine.transfers.caller()), display.clone());

    say(&format!(
        "3. Asking both for the closure of {} ...",
        root.name()
    ));
    let closure = engine
        .resolver
        .closure(std::slice::from_ref(&root), false)
        .await?;
    let found = engine.resolver.find(&closure).await;
    let total: u64 = found.iter().map(|found| found.info.nar_size).sum();
    let mut from = BTreeMap::new();
    for found in &found {
        let host = &config.hosts[found.holders[0].index()].name;
        *from.entry(host.as_str()).or_insert(0) += 1;
    }
    say(&format!(
        "   {} paths, {} MB; the best host for each: {from:?}",
        found.len(),
        total / 1_000_000
    ));

    say("4. Substituting them into a folder ...");
    let store = dest.join("nix/store");
    std::fs::create_dir_all(&store)?;
    let start = Instant::now();
    for (number, found) in (1..).zip(&found) {
        let path = found.info.path.as_str();
        let target = store.join(found.info.path.base_name());
        // What Nix 1.x would read: a line that it ignores, then the hash.
        let mut answer = Vec::new();
        front::substitute(path, &target, &mut answer, &backend).await?;
        let hash = found.info.nar_hash.ok_or("no hash")?;
        assert_eq!(answer, format!("\n{hash}\n").as_bytes());
        say(&format!(
            "   [{number:>2}/31] {:<12} {:>6.1} MB from {}",
            found.info.path.name(),
            found.info.nar_size as f64 / 1e6,
            config.hosts[found.holders[0].index()].name,
        ));
    }
    let seconds = start.elapsed().as_secs_f64();

    say("5. Verifying what is on disk, path by path ...");
    demo::register(&dest, &paths)?;
    let restored = LocalStore::open(&dest)?;
    for found in &found {
        let hash = hash_on_disk(&restored, &found.info.path)?;
        if Some(hash) != found.info.nar_hash {
            return Err(format!("{} is not what was promised", found.info.path).into());
        }
    }
    say(&format!(
        "\nDone: {} paths, {} MB in {seconds:.1} s, every NAR hash right.\n\n\
         What next:\n  \
         - let a real Nix use your machines: see \"Five-minute start\" in README.md\n  \
         - fetch one path by hand:\n      \
         ssh-substituter --host 'ssh://you@host?trusted=true' --substitute /nix/store/… ./here\n  \
         - serve this machine's own store: ssh-substituter serve-local",
        found.len(),
        total / 1_000_000,
    ));
    Ok(())
}

fn hash_on_disk(store: &LocalStore, path: &StorePath) -> Result<NarHash, Box<dyn Error>> {
    let mut dump = Dump::open(store, path)?;
    let mut hasher = Sha256::new();
    loop {
        let mut chunk = Vec::new();
        let more = dump.next_chunk(&mut chunk)?;
        hasher.update(&chunk);
        if !more {
            return Ok(NarHash::new(hasher.finalize().into()));
        }
    }
}
