//! A whole host (a real sshd in front of a real store), and what leads the program under test to it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::runtime_dir::end_masters;
use super::{Nix, NixEnv, Sshd, Store, program};

/// A machine that can be reached by ssh and has a Nix store.
pub struct Host {
    pub store: Store,
    pub sshd: Sshd,
}

impl Host {
    /// An empty store behind a server with nothing special about it.
    pub fn new() -> Self {
        Self {
            store: Store::new(),
            sshd: Sshd::start(),
        }
    }

    /// What goes into `ssh-substituter-hosts`; `extra` holds further parameters, `trusted=true` as a rule.
    pub fn url(&self, extra: &str) -> String {
        let store = self.store.remote_store_param();
        self.sshd
            .store_url(&format!("remote-store={store}&{extra}"))
    }

    /// The same, trusted.
    pub fn trusted(&self) -> String {
        self.url("trusted=true")
    }
}

/// What leads Nix to the program under test; `extra` holds further parameters (`&name=value`).
pub fn substituter(extra: &str) -> String {
    let program = program().display();
    format!("ssh://localhost?remote-program={program}&trusted=true{extra}")
}

impl NixEnv {
    /// Writes ssh-substituter.conf: the hosts, and further lines.
    pub fn configure(&self, hosts: &[String], lines: &str) {
        let hosts = hosts.join(" ");
        let text = format!("ssh-substituter-hosts = {hosts}\n{lines}\n");
        fs::write(self.conf_dir().join("ssh-substituter.conf"), text)
            .expect("write the configuration");
    }

    /// The program under test in this environment.
    pub fn program(&self) -> Command {
        self.command(program())
    }

    /// Ends the ssh masters that the program started here when the value is dropped.
    pub fn masters(&self) -> Masters {
        Masters(self.folder().join("run/ssh-substituter"))
    }
}

impl Nix {
    /// Nix that uses the program under test, with these hosts.
    pub fn through(hosts: &[String]) -> Self {
        let nix = Self::new().substituters(&substituter(""));
        nix.store().env().configure(hosts, "");
        nix
    }
}

/// Ends ssh masters on drop.
pub struct Masters(PathBuf);

impl Drop for Masters {
    fn drop(&mut self) {
        end_masters(&self.0);
    }
}
