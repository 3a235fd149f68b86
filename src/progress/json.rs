//! Lines as Nix prints them with `--log-format internal-json`, for programs that read those.
//!
//! `@nix ` and one JSON object a line (Nix: `libutil/logging.cc`, `JSONLogger`; types in `logging.hh`):
//!
//! | action | fields |
//! | --- | --- |
//! | `start` | `id`, `type`, `level`, `text`, `parent` (Nix 2.9 and later; 0 is none), `fields` where the type has some |
//! | `result` | `id`, `type`, `fields` |
//! | `stop` | `id` |
//! | `msg` | `level`, `msg` |
//!
//! | type of an activity | fields |
//! | --- | --- |
//! | 100 copy path | path, from, to: store URLs, `local` for this machine; from several hosts their URLs, separated by a comma and a space |
//! | 103 copy paths | none |
//! | 108 substitute | path, from |
//!
//! | type of a result | fields |
//! | --- | --- |
//! | 105 progress | done, expected, running, failed: paths of a 103, bytes of a 100 |
//! | 106 expected | type of activity, number: bytes of all 100 |
//!
//! Levels are Nix's: 0 error, 1 warning, 2 notice, 3 info, 4 talkative, 5 chatty, 6 debug, 7 vomit.

use log::Level;
use serde_json::{Value, json};

const COPY_PATH: u64 = 100;
const COPY_PATHS: u64 = 103;
const SUBSTITUTE: u64 = 108;
const PROGRESS: u64 = 105;
const SET_EXPECTED: u64 = 106;

/// What has no words of its own is announced at Nix's level for errors, so that it is never left out.
const ALWAYS: u64 = 0;
const INFO: u64 = 3;

/// An object as a line, with its end.
pub(super) fn line(object: &Value) -> String {
    format!("@nix {object}\n")
}

/// A message, which says itself that it is a warning or an error.
pub(super) fn message(level: Level, text: &str) -> Value {
    let level = match level {
        Level::Error => 0,
        Level::Warn => 1,
        Level::Info => INFO,
        Level::Debug => 4,
        Level::Trace => 7,
    };
    json!({"action": "msg", "level": level, "msg": text})
}

/// The whole begins; so many paths, if that is known.
pub(super) fn start_whole(id: u64, paths: Option<u64>) -> Value {
    let (level, text) = match paths {
        Some(paths) => (INFO, format!("copying {paths} paths")),
        None => (ALWAYS, String::new()),
    };
    json!({"action": "start", "id": id, "level": level, "parent": 0, "text": text, "type": COPY_PATHS})
}

/// So many bytes are to come in all.
pub(super) fn expect_bytes(whole: u64, bytes: u64) -> Value {
    json!({"action": "result", "fields": [COPY_PATH, bytes], "id": whole, "type": SET_EXPECTED})
}

/// How far an activity is: done, expected, running, failed.
pub(super) fn progress(id: u64, counts: [u64; 4]) -> Value {
    json!({"action": "result", "fields": counts, "id": id, "type": PROGRESS})
}

/// A path comes from a host, or from several: its two activities begin.
pub(super) fn start_transfer(ids: [u64; 2], whole: u64, path: &str, hosts: &[&str]) -> [Value; 2] {
    let urls: Vec<String> = hosts.iter().map(|host| format!("ssh://{host}")).collect();
    let from = urls.join(", ");
    let text = format!("copying path '{path}' from '{from}'");
    let [substitute, copy] = ids;
    [
        json!({
            "action": "start", "fields": [path, from], "id": substitute, "level": ALWAYS,
            "parent": whole, "text": "", "type": SUBSTITUTE,
        }),
        json!({
            "action": "start", "fields": [path, from, "local"], "id": copy, "level": INFO,
            "parent": substitute, "text": text, "type": COPY_PATH,
        }),
    ]
}

/// An activity ends.
pub(super) fn stop(id: u64) -> Value {
    json!({"action": "stop", "id": id})
}
