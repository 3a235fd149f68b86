//! `doctor`: checks the whole set-up, and says of each thing whether it is well, and how to fix it if not.
//!
//! | module | checks |
//! | --- | --- |
//! | `configuration` | files, settings, hosts that are named |
//! | `folders` | the runtime folder and the cache |
//! | `programs` | ssh here |
//! | `nix` | Nix here: its substituters that are this program, and the systemd units of its daemon |
//! | `hosts` | each host: log-in, program, store, shell |
//! | `trust` | store paths: who has them, and whether they would be accepted |
//!
//! `finding` holds what is found, and how it is shown; `fixes` the fixes of errors that have no hint elsewhere.

mod configuration;
mod finding;
mod fixes;
mod folders;
mod hosts;
mod nix;
mod programs;
mod trust;

use std::sync::Arc;

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::output::print_json;
use super::probe::Prober;
use super::{Loaded, Status, engines, print};
use crate::cli::Doctor;
use crate::config::{Config, Sources};
use crate::engine::shared_disk;
use finding::Findings;

/// Checks everything and prints the findings. The exit status is 0 when nothing is an error or a warning.
///
/// # Errors
/// When standard output cannot take it.
pub async fn doctor(args: &Doctor, loaded: Loaded) -> Status {
    let sources = Sources::from_process();
    let mut all = Vec::new();
    let mut nix = nix::Nix::find().await;
    all.extend(configuration::check(&sources, &loaded, &nix));
    let config = loaded.map_or_else(|_| Config::without_hosts(), |(config, _)| config);
    let disk = shared_disk();
    let inspected = disk.clone();
    // Before the hosts: asking them would silently repair what can be repaired.
    all.extend(spawn_blocking(move || folders::check(&inspected)).await?);
    all.extend(programs::check(&config).await);
    let wanted = trust::RequestedPaths::parse(&args.paths, &config.store_dir);
    let prober = Arc::new(Prober::new(config.clone(), disk));
    let probed = prober.all(wanted.paths()).await;
    all.extend(hosts::check(&prober, &probed).await);
    all.extend(nix.check(&sources, &config).await);
    let engines = engines::running().await;
    let pid = |engine: &Value| u32::try_from(engine["pid"].as_u64()?).ok();
    let engines: Vec<u32> = engines.iter().filter_map(pid).collect();
    all.extend(spawn_blocking(move || nix::check_units(&engines)).await?);
    all.extend(wanted.check(&config, &probed, nix.asks_for_signatures(&sources)));
    let findings = Findings(all);
    if args.json {
        print_json(&findings.json()).await?;
    } else {
        print(&findings.text()).await?;
    }
    Ok(u8::from(!findings.all_is_well()))
}
