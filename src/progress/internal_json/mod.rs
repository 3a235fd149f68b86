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

mod events;
mod json;

pub(super) use events::Events;
pub(super) use json::{line, message};
