//! `doctor`: looks at the whole set-up, and says of each thing whether it is well, and else what mends
//! it.
//!
//! | module | looks at |
//! | --- | --- |
//! | `configuration` | files, settings, hosts that are named |
//! | `folders` | the runtime folder and the cache |
//! | `programs` | ssh here |
//! | `nix` | Nix here, and how it is led to this program |
//! | `units` | systemd units that end the engine with whoever started it |
//! | `hosts` | each host: log-in, program, store, shell |
//! | `place` | where the program of a host is, and which it is |
//! | `trust` | store paths: who has them, and whether they would be accepted |
//! | `mends` | what mends what the other rooms have no hint for |
//! | `finding` | what is found, and how it is shown |

mod configuration;
mod finding;
mod folders;
mod hosts;
mod mends;
mod nix;
mod place;
mod programs;
mod trust;
mod units;

use std::sync::Arc;

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::probe::Prober;
use super::shared::print_json;
use super::{Loaded, Status, engines, print};
use crate::cli::Doctor;
use crate::config::{Config, Sources};
use crate::engine::shared_disk;
use finding::Findings;

/// Checks all and tells what was found. The exit status is 0 when nothing is an error or a warning.
///
/// # Errors
/// When standard output cannot take it.
pub async fn doctor(args: &Doctor, loaded: Loaded) -> Status {
    let sources = Sources::from_process();
    let mut all = Vec::new();
    let nix = nix::Nix::find().await;
    all.extend(configuration::check(&sources, &loaded, &nix));
    let config = loaded.map_or_else(|_| Config::without_hosts(), |(config, _)| config);
    let disk = shared_disk();
    let looked_at = disk.clone();
    // Before the hosts: asking them would mend what can be mended without a word.
    all.extend(spawn_blocking(move || folders::check(&looked_at)).await?);
    all.extend(programs::check(&config).await);
    let wanted = trust::Wanted::parse(&args.paths, &config.store_dir);
    let prober = Arc::new(Prober::new(config.clone(), disk));
    let probed = prober.all(wanted.paths()).await;
    all.extend(hosts::check(&prober, &probed).await);
    all.extend(nix.check(&sources, &config).await);
    let engines = engines::running().await;
    let pid = |engine: &Value| u32::try_from(engine["pid"].as_u64()?).ok();
    let engines: Vec<u32> = engines.iter().filter_map(pid).collect();
    all.extend(spawn_blocking(move || units::check(&engines)).await?);
    all.extend(wanted.check(&config, &probed, nix.asks_for_signatures(&sources)));
    let findings = Findings(all);
    if args.json {
        print_json(&findings.json()).await?;
    } else {
        print(&findings.text()).await?;
    }
    Ok(u8::from(!findings.all_is_well()))
}
