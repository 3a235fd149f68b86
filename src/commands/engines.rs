//! The engines of this user that run, as they tell it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::meeting::{Client, Place};

/// How long an engine may take to answer. One that is frozen must not hold up who only looks.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status of each, as its JSON, in the order of their process ids; `socket` is added to it. Of one
/// that does not answer there are only `socket` and `error`.
pub(super) async fn running() -> Vec<Value> {
    let mut asked = JoinSet::new();
    for socket in Place::all().unwrap_or_default() {
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
