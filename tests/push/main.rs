//! `push`: real processes, real sshd, real `nix-store --serve --write`; the real Nix says whether what came is right.

#[path = "../support/mod.rs"]
mod support;

mod compressed;
mod disk;
mod faults;
mod hosts;
mod plain;
mod queue;
mod signing;
mod troubles;
mod wide;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::{Dag, Got, Host, Masters, NixEnv, Random, Store, run, run_with_timeout};

/// How long one run may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A store whose paths are pushed, hosts that take them, and the surroundings of a user.
struct Site {
    _masters: Masters,
    env: NixEnv,
    store: Store,
    hosts: Vec<Host>,
}

impl Site {
    /// So many hosts with empty stores, which are those of the configuration.
    fn new(hosts: usize) -> Self {
        Self::of((0..hosts).map(|_| Host::new()).collect())
    }

    fn of(hosts: Vec<Host>) -> Self {
        let env = NixEnv::new();
        let site = Self {
            _masters: env.masters(),
            env,
            store: Store::new(),
            hosts,
        };
        site.configure("");
        site
    }

    /// Writes the configuration, with further lines.
    fn configure(&self, lines: &str) {
        let urls: Vec<_> = self.hosts.iter().map(|host| host.url("")).collect();
        let lines = format!("ssh-substituter-push-hosts = {}\n{lines}", urls.join(" "));
        self.env.configure(&[], &lines);
    }

    /// The store of the first host.
    fn there(&self) -> &Store {
        &self.hosts[0].store
    }

    /// A file of this site.
    fn file(&self, name: &str) -> PathBuf {
        self.env.folder().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.env.program();
        command.arg("push").arg("--store").arg(self.store.root());
        command.args(args);
        command
    }

    fn push(&self, args: &[&str]) -> Got {
        Got(run_with_timeout(self.command(args), LIMIT))
    }
}

/// A closure of paths of so many bytes each, and a root that refers to all of them.
fn parts(store: &Store, count: usize, bytes: usize) -> Dag {
    let mut random = Random::new(count as u64, "parts");
    let mut paths: Vec<_> = (0..count)
        .map(|index| {
            let path = random.store_path(&format!("part-{index}"));
            store.add_made(path, |path| {
                std::fs::write(path, random.bytes(bytes)).unwrap()
            })
        })
        .collect();
    let references = paths.clone();
    let root = random.store_path("root");
    store.add_made(root.clone(), |path| {
        std::fs::write(path, references.join("\n")).unwrap();
    });
    store.register(&[support::Entry {
        path: root.clone(),
        references,
        deriver: None,
    }]);
    paths.push(root.clone());
    Dag { root, paths }
}

/// Has the real Nix check all that a store has, and returns it.
#[track_caller]
fn verified(store: &Store) -> Vec<String> {
    let paths = store.all_paths();
    let mut command = store.command("nix-store");
    command.arg("--verify-path").args(&paths);
    run(command, LIMIT);
    paths
}
