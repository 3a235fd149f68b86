//! What was reported to the user about one host, so that each message is given once.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::host::{Host, SshTarget};
use crate::hint::{Hint, without_hint};
use crate::pool::Notify;
use crate::remote::{RemoteError, Unreadable};

/// A host's answer about a path, or the path in it, cannot be read. The path is skipped, and the host has not
/// failed: its Nix may allow what others do not.
#[derive(Debug, thiserror::Error)]
#[error(
    "{host}: what it tells of {} cannot be read, so that this path is left out: {}",
    .entry.path, .entry.why
)]
pub struct SkippedPath {
    /// The host.
    pub host: String,
    /// The path, and what cannot be read.
    pub entry: Unreadable,
}

without_hint!(SkippedPath);

/// Text that a host printed before the handshake.
#[derive(Debug, thiserror::Error)]
#[error("{host}: skipped text that was printed before the handshake: {text:?}")]
pub struct Banner {
    /// The host.
    pub host: String,
    /// The beginning of the text.
    pub text: String,
}

impl Hint for Banner {
    fn hint(&self) -> Option<String> {
        let ssh = SshTarget::of(&self.host).ssh("true");
        Some(format!(
            "'{ssh}' must print nothing: let the shell start-up files there print only when they run in a terminal"
        ))
    }
}

/// What has been reported about failures since the host last did what was asked.
#[derive(Default)]
pub(super) struct FailureReports {
    /// The user knows of the present failure.
    pub(super) user: bool,
    /// The user knows that replies cannot be read. That is no failure, so it is reported once for each command.
    pub(super) unreadable: bool,
    /// The failure that was taken into account last; callers that shared it report it too.
    pub(super) last: Option<Arc<RemoteError>>,
}

/// The fields of skipped paths that the user knows of.
#[derive(Default)]
pub(super) struct SkippedPathReports(Mutex<HashSet<&'static str>>);

impl SkippedPathReports {
    /// Tells the user of skipped paths, the first of each field.
    pub(super) fn report(&self, host: &Host, notify: &Notify, entries: Vec<Unreadable>) {
        for entry in entries {
            let is_first = self.0.lock().insert(entry.why.field);
            let host = host.to_string();
            let skipped = SkippedPath { host, entry };
            if is_first {
                notify(&skipped);
            } else {
                log::debug!("{skipped}");
            }
        }
    }

    /// Lets each field be reported once more, to a new command.
    pub(super) fn reset(&self) {
        self.0.lock().clear();
    }
}
