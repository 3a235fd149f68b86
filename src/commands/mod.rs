//! What people do by hand: fetch, look, check. Each command gets its arguments and the configuration, and gives an exit status.
//!
//! | module | command |
//! | --- | --- |
//! | `get` | `get`: closures into a folder, a binary cache or this machine's store |
//! | `status` | `status`: hosts, connections, cache |
//! | `doctor` | `doctor`: what is wrong with the set-up, and its mend |
//! | `cache` | `cache`: the answers on disk |
//! | `config` | `config show`: the settings in force |
//! | `probe`, `engines` | one look at all hosts, and at the engines that run |
//! | `shared` | tables, numbers, JSON |

mod cache;
mod config;
mod doctor;
mod engines;
mod get;
mod probe;
mod shared;
mod status;

use std::error::Error;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

pub use cache::cache;
pub use config::show_config;
pub use doctor::doctor;
pub use get::{GetError, NixError, get};
pub use status::status;

use crate::config::{Config, ConfigError};
use crate::engine::{Engine, Messages, shared_disk, ssh_transport};
use crate::hint::Hint;
use crate::pool::{AllHostsResting, RemoteError};
use crate::progress::drain;
use crate::{front, report};

/// The exit status of a command, or what ended it.
pub type Status = Result<u8, Box<dyn Hint>>;

/// A configuration with its warnings, or what is wrong with it.
pub type Loaded = Result<(Config, Vec<String>), ConfigError>;

/// An engine whose trouble with hosts is told here, and to those who read `messages`.
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
            match refused.and_then(RemoteError::host) {
                Some(host) => messages.post_closed(host, text),
                None if kind.is::<AllHostsResting>() => messages.post_closed("", text),
                None => messages.post(log::Level::Warn, text),
            }
            for detail in report::details(error) {
                messages.post(log::Level::Debug, detail);
            }
        }
    });
    Engine::new(config, ssh_transport(config), notify, Some(shared_disk()))
}

/// Prints what a command was asked for.
///
/// # Errors
/// When standard output cannot take it.
pub async fn print(text: &str) -> Result<(), Box<dyn Hint>> {
    // Both may be the same terminal: what was said before stands before it.
    drain();
    let mut stdout = front::stdout();
    stdout.write_all(text.as_bytes()).await?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n").await?;
    }
    Ok(stdout.flush().await?)
}
