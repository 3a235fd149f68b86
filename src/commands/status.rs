//! `status`: hosts, connections, engines, what is queued to be pushed, cache.

mod queue;
mod text;

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::output::{print_json, require_config};
use super::probe::{Probed, Prober, Reached, Shell, nix_of};
use super::{Loaded, Status, engines, print};
use crate::cache::disk::{Contents, InspectError, unix_seconds};
use crate::engine::shared_disk;
use crate::report;
use queue::QueueReport;

/// What `status` shows.
struct StatusReport {
    hosts: Vec<Probed>,
    engines: Vec<Value>,
    queue: QueueReport,
    cache: Result<Contents, InspectError>,
}

/// Says how hosts, their connections, the engines and the cache are. All hosts are asked, also those
/// that commands leave alone at the moment.
///
/// # Errors
/// When there is no configuration, or standard output cannot take it.
pub async fn status(json: bool, loaded: Loaded) -> Status {
    let (config, warnings) = match require_config(loaded, json).await {
        Ok(loaded) => loaded,
        Err(ends) => return ends,
    };
    for warning in warnings {
        log::warn!("{warning}");
    }
    let disk = shared_disk();
    let prober = Arc::new(Prober::new(config, disk.clone()));
    // Before hosts are probed, which opens connections.
    let engines = engines::running().await;
    let hosts = prober.all(&[]).await;
    let cache = spawn_blocking(move || disk.contents()).await?;
    let queue = spawn_blocking(QueueReport::read).await?;
    let found = StatusReport {
        hosts,
        engines,
        queue,
        cache,
    };
    if json {
        print_json(&found.json()).await?;
    } else {
        print(&found.text(unix_seconds())).await?;
    }
    Ok(0)
}

impl StatusReport {
    fn json(&self) -> Value {
        let cache = match &self.cache {
            Ok(contents) => json!({
                "path": contents.path.to_string_lossy(),
                "bytes": contents.size,
                "answers": contents.answers.iter().map(|host| host.has + host.lacks).sum::<u64>(),
            }),
            Err(error) => json!({ "error": report::line(error) }),
        };
        json!({
            "hosts": self.hosts.iter().map(|host| self.host(host)).collect::<Value>(),
            "engines": self.engines,
            "pushQueue": self.queue.json(),
            "cache": cache,
        })
    }

    fn host(&self, probed: &Probed) -> Value {
        let name = probed.host.to_string();
        let health = probed.failures_before;
        let mut all = json!({
            "host": name,
            "reachable": probed.reached.is_ok(),
            "openMasters": probed.masters,
            "connections": self.of_engines(&name, "connections").map(|all| all as u64),
            "bytesPerSecond": self.of_engines(&name, "bytesPerSecond").map(|all| all as u64),
            "failuresBefore": health.map_or(0, |health| health.failures),
            "leftAloneUntil": health.map(|health| health.rest_until / 1000),
        });
        let more = match &probed.reached {
            Ok(reached) => reached_json(reached),
            Err(error) => {
                let parts = report::parts(&**error);
                json!({ "error": parts.message, "hint": parts.hint })
            }
        };
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    }

    /// The sum of what all engines say of a host, if any of them says something; `field` may be a path with slashes.
    fn of_engines(&self, host: &str, field: &str) -> Option<f64> {
        let field = format!("/{field}");
        let hosts = self
            .engines
            .iter()
            .filter_map(|engine| engine["hosts"].as_array());
        let mine = hosts.flatten().filter(|one| one["host"] == host);
        let values: Vec<f64> = mine
            .filter_map(|one| one.pointer(&field)?.as_f64())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

fn reached_json(reached: &Reached) -> Value {
    let error = reached.infos.as_ref().err();
    json!({
        "protocol": reached.version.to_string(),
        "nix": nix_of(reached.version),
        "latencySeconds": reached.latency.map(|latency| latency.as_secs_f64()),
        "shell": match reached.shell {
            Shell::Yes { .. } => Some(true),
            Shell::No(_) => Some(false),
            Shell::Failed(_) | Shell::NotNeeded => None,
        },
        "extension": matches!(reached.shell, Shell::NotNeeded),
        "answers": reached.infos.is_ok(),
        "error": error.map(|error| report::parts(&**error).message),
        "hint": error.and_then(|error| report::parts(&**error).hint),
    })
}
