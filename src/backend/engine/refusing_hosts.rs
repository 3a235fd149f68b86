//! The hosts that do not let the engine log in, as one front end knows them.

use parking_lot::Mutex;
use std::collections::BTreeSet;

/// How many hosts are remembered at most: more than anybody configures.
const MAX_HOSTS: usize = 10_000;

/// What the engine has reported about hosts that refuse its login.
#[derive(Default)]
pub(super) struct RefusingHosts {
    /// The caller has a login of its own, so that the user need not hear of them.
    has_own_login: bool,
    reported: Mutex<Reported>,
}

#[derive(Default)]
struct Reported {
    hosts: BTreeSet<String>,
    /// The message that no host at all can be asked. The user sees it unless refused logins are the reason.
    about_all: Option<String>,
}

impl RefusingHosts {
    pub(super) fn for_own_login() -> Self {
        Self {
            has_own_login: true,
            ..Self::default()
        }
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.reported.lock().hosts.iter().cloned().collect()
    }

    /// Records that a host does not let the engine in, or with an empty `host`, that no host can be asked. `message` is
    /// for the user.
    pub(super) fn record(&self, host: String, message: String) {
        if !self.has_own_login {
            log(log::Level::Warn, &message);
        } else if host.is_empty() {
            self.reported.lock().about_all = Some(message);
        } else {
            log(log::Level::Debug, &message);
            let mut reported = self.reported.lock();
            if reported.hosts.len() < MAX_HOSTS {
                reported.hosts.insert(host);
            }
        }
    }

    /// Logs the message about all hosts. Called once everything that precedes an answer has been recorded.
    pub(super) fn log_pending(&self) {
        let mut reported = self.reported.lock();
        let level = match reported.hosts.is_empty() {
            true => log::Level::Warn,
            false => log::Level::Debug,
        };
        if let Some(message) = reported.about_all.take() {
            drop(reported);
            log(level, &message);
        }
    }
}

fn log(level: log::Level, message: &str) {
    if !message.is_empty() {
        log::log!(level, "{message}");
    }
}
