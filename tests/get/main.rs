//! `get`: real processes, real sshd, real `nix-store --serve`; the real Nix says whether what came is right.

#[path = "../support/mod.rs"]
mod support;

mod continued;
mod differences;
mod interrupted;
mod into_store;
mod plan;
mod to_cache;
mod to_folder;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{Got, Host, Masters, NixEnv, Store, run_with_timeout};

/// How long one run may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Hosts, and the surroundings of a user.
struct Site {
    _masters: Masters,
    env: NixEnv,
    hosts: Vec<Host>,
}

impl Site {
    /// So many hosts with empty stores, all of them trusted.
    fn new(hosts: usize) -> Self {
        let hosts: Vec<_> = (0..hosts).map(|_| Host::new()).collect();
        let env = NixEnv::new();
        let site = Self {
            _masters: env.masters(),
            env,
            hosts,
        };
        site.configure("trusted=true", "");
        site
    }

    fn configure(&self, extra: &str, lines: &str) {
        let urls: Vec<_> = self.hosts.iter().map(|host| host.url(extra)).collect();
        self.env.configure(&urls, lines);
    }

    /// The store of the first host.
    fn store(&self) -> &Store {
        &self.hosts[0].store
    }

    /// A folder of this site that does not exist.
    fn folder(&self, name: &str) -> PathBuf {
        self.env.folder().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.env.program();
        command.arg("get").args(args);
        command
    }

    fn get(&self, args: &[&str]) -> Got {
        Got(run_with_timeout(self.command(args), LIMIT))
    }

    /// `get --to FOLDER PATHS`.
    fn get_to(&self, folder: &Path, paths: &[&str]) -> Got {
        let mut args = vec!["--to", text(folder)];
        args.extend(paths);
        self.get(&args)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}

/// Names of what lies in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("read a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("read an entry").file_name();
        name.to_string_lossy().into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

/// The last parts of store paths, sorted.
fn base_names(paths: &[String]) -> Vec<String> {
    let mut names: Vec<_> = paths
        .iter()
        .map(|path| path.rsplit('/').next().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}
