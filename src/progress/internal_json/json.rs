//! The JSON of messages and of events; see [the format](super).

use log::Level;
use serde_json::{Value, json};

const COPY_PATH: u64 = 100;
const COPY_PATHS: u64 = 103;
const SUBSTITUTE: u64 = 108;
const PROGRESS: u64 = 105;
const SET_EXPECTED: u64 = 106;

/// Activities without text are sent at Nix's level for errors, so that no verbosity filters them out.
const ALWAYS: u64 = 0;
const INFO: u64 = 3;

/// An object as a line, with its end.
pub(in crate::progress) fn line(object: &Value) -> String {
    format!("@nix {object}\n")
}

/// A message, which says itself that it is a warning or an error.
pub(in crate::progress) fn message(level: Level, text: &str) -> Value {
    let level = match level {
        Level::Error => 0,
        Level::Warn => 1,
        Level::Info => INFO,
        Level::Debug => 4,
        Level::Trace => 7,
    };
    json!({"action": "msg", "level": level, "msg": text})
}

/// The activity for all transfers begins; so many paths, if that is known.
pub(super) fn start_overall(id: u64, paths: Option<u64>) -> Value {
    let (level, text) = match paths {
        Some(paths) => (INFO, format!("copying {paths} paths")),
        None => (ALWAYS, String::new()),
    };
    json!({"action": "start", "id": id, "level": level, "parent": 0, "text": text, "type": COPY_PATHS})
}

/// So many bytes are to come in all.
pub(super) fn expect_bytes(overall: u64, bytes: u64) -> Value {
    json!({"action": "result", "fields": [COPY_PATH, bytes], "id": overall, "type": SET_EXPECTED})
}

/// How far an activity is: done, expected, running, failed.
pub(super) fn progress(id: u64, counts: [u64; 4]) -> Value {
    json!({"action": "result", "fields": counts, "id": id, "type": PROGRESS})
}

/// A path comes from a host, or from several, or goes there: its two activities begin.
pub(super) fn start_transfer(
    ids: [u64; 2],
    overall: u64,
    path: &str,
    (hosts, is_sent): (&[&str], bool),
) -> [Value; 2] {
    let urls: Vec<String> = hosts.iter().map(|host| format!("ssh://{host}")).collect();
    let hosts = urls.join(", ");
    let (direction, from, to) = match is_sent {
        true => ("to", "local", hosts.as_str()),
        false => ("from", hosts.as_str(), "local"),
    };
    let text = format!("copying path '{path}' {direction} '{hosts}'");
    let [substitute, copy] = ids;
    [
        json!({
            "action": "start", "fields": [path, hosts], "id": substitute, "level": ALWAYS,
            "parent": overall, "text": "", "type": SUBSTITUTE,
        }),
        json!({
            "action": "start", "fields": [path, from, to], "id": copy, "level": INFO,
            "parent": substitute, "text": text, "type": COPY_PATH,
        }),
    ]
}

/// An activity ends.
pub(super) fn stop(id: u64) -> Value {
    json!({"action": "stop", "id": id})
}
