//! A whole host (a real sshd in front of a real store), and what leads the program under test to it.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::runtime_dir::end_masters;
use super::{Nix, NixEnv, SHORT, Sshd, Store, program, run};

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
    /// Writes ssh-substituter.conf: the hosts, and further lines. Without a word about it there is no engine, so that a
    /// test sees what each process does.
    pub fn configure(&self, hosts: &[String], lines: &str) {
        let hosts = hosts.join(" ");
        let text = format!("engine = off\nssh-substituter-hosts = {hosts}\n{lines}\n");
        fs::write(self.conf_dir().join("ssh-substituter.conf"), text)
            .expect("write the configuration");
    }

    /// The program under test in this environment.
    pub fn program(&self) -> Command {
        self.command(program())
    }

    /// The same, with an engine behind all processes that are started here. It ends with the value.
    pub fn configure_with_engine(&self, hosts: &[String], lines: &str) -> Engines {
        self.configure(hosts, &format!("engine = auto\n{lines}"));
        let mut command = self.program();
        command.arg("engine");
        Engines {
            command: RefCell::new(command),
            _masters: self.masters(),
        }
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

/// The engines of an environment. All are ended on drop, and their ssh masters.
pub struct Engines {
    command: RefCell<Command>,
    _masters: Masters,
}

impl Engines {
    /// How each of them is.
    pub fn status(&self) -> Vec<serde_json::Value> {
        let text = self.run("status");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The process ids.
    pub fn pids(&self) -> Vec<u32> {
        let pid = |status: &serde_json::Value| status["pid"].as_u64().expect("a pid") as u32;
        self.status().iter().map(pid).collect()
    }

    /// The only one.
    pub fn pid(&self) -> u32 {
        let pids = self.pids();
        assert_eq!(pids.len(), 1, "engines: {pids:?}");
        pids[0]
    }

    /// Ends all of them as a user does.
    pub fn stop(&self) -> String {
        self.run("stop")
    }

    fn run(&self, action: &str) -> String {
        let template = self.command.borrow();
        let mut command = Command::new(template.get_program());
        command.env_clear().args(template.get_args()).arg(action);
        let set = template.get_envs();
        command.envs(set.filter_map(|(name, value)| Some((name, value?))));
        run(command, SHORT)
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
            return;
        }
        // A second panic would hide the first one.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop()));
    }
}

/// Ends ssh masters on drop.
pub struct Masters(PathBuf);

impl Drop for Masters {
    fn drop(&mut self) {
        end_masters(&self.0);
    }
}
