//! `engine status`, `engine stop`, and what other commands ask the engines of this user that run.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Status, output, print};
use crate::ipc::{Client, SocketPath};

/// How long an engine may take to answer: a frozen one must not hold up a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// `engine status`: prints the status of all engines that answer.
///
/// # Errors
/// When there is no folder for their sockets, or standard output cannot take it.
pub async fn engine_status() -> Status {
    let mut all = status_of(SocketPath::all()?).await;
    all.retain(|engine| engine.get("error").is_none());
    output::print_json(&all.into()).await?;
    Ok(0)
}

/// `engine stop`: ends all engines.
///
/// # Errors
/// When there is no folder for their sockets, or standard output cannot take what they reply.
pub async fn engine_stop() -> Status {
    for socket in SocketPath::all()? {
        match Client::stop(&socket).await {
            Ok(text) => print(&text).await?,
            Err(error) => log::debug!("{}: {error}", socket.display()),
        }
    }
    Ok(0)
}

/// Makes all engines forget what they remember of the host that `host` names, or of all hosts. Returns a line for each
/// engine that does not.
pub(super) async fn forget(host: Option<&str>) -> Vec<String> {
    let mut pending = JoinSet::new();
    for engine in running().await {
        let (Some(socket), host) = (engine["socket"].as_str(), host.map(str::to_owned)) else {
            continue;
        };
        let (socket, pid) = (PathBuf::from(socket), engine["pid"].as_u64());
        pending.spawn(async move {
            let name = pid.map_or_else(|| socket.display().to_string(), |pid| pid.to_string());
            match timeout(ANSWER_TIMEOUT, Client::forget(&socket, host.as_deref())).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(format!("engine {name}: {error}")),
                Err(_) => Some(format!("engine {name}: {}", no_answer())),
            }
        });
    }
    pending.join_all().await.into_iter().flatten().collect()
}

/// The status of each engine as JSON, ordered by process id, with its `socket` added. One that does not answer has only
/// `socket` and `error`.
pub(super) async fn running() -> Vec<Value> {
    status_of(SocketPath::all().unwrap_or_default()).await
}

async fn status_of(sockets: Vec<PathBuf>) -> Vec<Value> {
    let mut pending = JoinSet::new();
    for socket in sockets {
        pending.spawn(async move {
            let mut status: Value = match timeout(ANSWER_TIMEOUT, Client::status_of(&socket)).await
            {
                Ok(Ok(text)) => serde_json::from_str(&text).ok()?,
                // Usually a socket that an engine has left behind.
                Ok(Err(error)) => {
                    log::debug!("{}: {error}", socket.display());
                    return None;
                }
                Err(_) => json!({ "error": no_answer() }),
            };
            let fields = status.as_object_mut()?;
            fields.insert("socket".to_owned(), socket.to_string_lossy().into());
            Some(status)
        });
    }
    let mut all: Vec<Value> = pending.join_all().await.into_iter().flatten().collect();
    all.sort_by_key(|engine| engine["pid"].as_u64());
    all
}

fn no_answer() -> String {
    format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
}
