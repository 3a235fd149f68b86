//! The engines of this user that run, as they tell it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ipc::{Client, SocketPath};

/// How long an engine may take to answer. One that is frozen must not hold up who only looks.
const PATIENCE: Duration = Duration::from_secs(2);

/// Has each of them forget what it remembers of the host that `host` names, or of all. Gives a line for each
/// that does not.
pub(super) async fn forget(host: Option<&str>) -> Vec<String> {
    let mut asked = JoinSet::new();
    for engine in running().await {
        let (Some(socket), host) = (engine["socket"].as_str(), host.map(str::to_owned)) else {
            continue;
        };
        let (socket, pid) = (PathBuf::from(socket), engine["pid"].as_u64());
        asked.spawn(async move {
            let name = pid.map_or_else(|| socket.display().to_string(), |pid| pid.to_string());
            match timeout(PATIENCE, Client::forget(&socket, host.as_deref())).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(format!("engine {name}: {error}")),
                Err(_) => Some(format!(
                    "engine {name}: no answer within {} s",
                    PATIENCE.as_secs()
                )),
            }
        });
    }
    asked.join_all().await.into_iter().flatten().collect()
}

/// The status of each, as its JSON, in the order of their process ids; `socket` is added to it. Of one
/// that does not answer there are only `socket` and `error`.
pub(super) async fn running() -> Vec<Value> {
    let mut asked = JoinSet::new();
    for socket in SocketPath::all().unwrap_or_default() {
        asked.spawn(async move {
            let mut status: Value = match timeout(PATIENCE, Client::status_of(&socket)).await {
                Ok(Ok(text)) => serde_json::from_str(&text).ok()?,
                // A socket that was left behind, as a rule.
                Ok(Err(error)) => {
                    log::debug!("{}: {error}", socket.display());
                    return None;
                }
                Err(_) => json!({ "error": format!("no answer within {} s", PATIENCE.as_secs()) }),
            };
            let fields = status.as_object_mut()?;
            fields.insert("socket".to_owned(), socket.to_string_lossy().into());
            Some(status)
        });
    }
    let mut all: Vec<Value> = asked.join_all().await.into_iter().flatten().collect();
    all.sort_by_key(|engine| engine["pid"].as_u64());
    all
}
