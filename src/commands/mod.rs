//! Commands for people: fetch, inspect, check. Each command gets its arguments and the configuration, and gives an exit status.
//!
//! | module | command |
//! | --- | --- |
//! | `get` | `get`: closures into a folder, a binary cache or this machine's store |
//! | `push` | `push`: closures of the local store to hosts |
//! | `status` | `status`: hosts, connections, cache |
//! | `doctor` | `doctor`: what is wrong with the set-up, and how to fix it |
//! | `cache` | `cache`: the answers on disk |
//! | `config` | `config show`: the settings in force |
//! | `key` | `key generate`: keys that sign store paths |
//! | `engines` | `engine status`, `engine stop`: the running engines |
//! | `probe` | the state of all hosts |
//! | `run_guard` | what is logged when a command is interrupted |
//! | `output`, `format` | printing, and what tables, times and counts look like |

mod cache;
mod config;
mod doctor;
mod engines;
mod format;
mod get;
mod key;
mod output;
mod probe;
mod push;
mod run_guard;
mod status;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

pub use cache::cache;
pub use config::show_config;
pub use doctor::doctor;
pub use engines::{engine_status, engine_stop};
pub use get::{GetError, NixError, get};
pub use key::{KeyError, generate_key};
pub use output::print;
pub use push::{PushCommandError, QueueSender, push, push_queue, push_wait};
pub use status::status;

use crate::config::{Config, ConfigError};
use crate::engine::{Engine, Messages, shared_disk, ssh_transport};
use crate::hint::Hint;
use crate::pool::{AllHostsResting, RemoteError};
use crate::report;

/// The exit status of a command, or what ended it.
pub type Status = Result<u8, Box<dyn Hint>>;

/// A configuration with its warnings, or what is wrong with it.
pub type Loaded = Result<(Config, Vec<String>), ConfigError>;

/// The root folder that `--store` names.
#[must_use]
pub fn store_root(store: &str) -> PathBuf {
    let root = match store {
        "local" | "auto" => "/",
        store => store.strip_prefix("local?root=").unwrap_or(store),
    };
    root.into()
}

/// An engine whose warnings about hosts are logged here, and posted to `messages`.
#[must_use]
pub fn engine(config: &Config, messages: Option<Messages>) -> Engine {
    let notify = Arc::new(move |error: &(dyn Hint + 'static)| {
        report::warn(error);
        if let Some(messages) = &messages {
            let text = report::line(error);
            let kind: &(dyn Error + 'static) = error;
            let refused = kind
                .downcast_ref()
                .filter(|error| RemoteError::is_login_refused(error));
            match refused.and_then(|error| error.host.as_deref()) {
                Some(host) => messages.send_login_refused(host, text),
                None if kind.is::<AllHostsResting>() => messages.send_login_refused("", text),
                None => messages.send(log::Level::Warn, text),
            }
            for detail in report::details(error) {
                messages.send(log::Level::Debug, detail);
            }
        }
    });
    Engine::new(config, ssh_transport(config), notify, Some(shared_disk()))
}
