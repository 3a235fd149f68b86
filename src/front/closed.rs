//! Hosts that do not let an engine in, as one front end knows them.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;

/// Most hosts that are noted: more than anybody configures.
const HOSTS: usize = 10_000;

/// What an engine has said of them.
#[derive(Default)]
pub(super) struct Closed {
    /// The caller has a login of its own, so that they are no trouble.
    has_own_login: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: BTreeSet<String>,
    /// That no host at all can be asked; the user is told if that is not because of logins.
    of_all: Option<String>,
}

impl Closed {
    pub(super) fn for_own_login() -> Self {
        Self {
            has_own_login: true,
            ..Self::default()
        }
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        self.state().hosts.iter().cloned().collect()
    }

    /// A host does not let the engine in (all of them, where it is empty); `text` is for the user.
    pub(super) fn note(&self, host: String, text: String) {
        if !self.has_own_login {
            say(log::Level::Warn, &text);
        } else if host.is_empty() {
            self.state().of_all = Some(text);
        } else {
            say(log::Level::Debug, &text);
            let mut state = self.state();
            if state.hosts.len() < HOSTS {
                state.hosts.insert(host);
            }
        }
    }

    /// All that was to be said before an answer has been noted.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        let level = match state.hosts.is_empty() {
            true => log::Level::Warn,
            false => log::Level::Debug,
        };
        if let Some(text) = state.of_all.take() {
            say(level, &text);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn say(level: log::Level, text: &str) {
    if !text.is_empty() {
        log::log!(level, "{text}");
    }
}
