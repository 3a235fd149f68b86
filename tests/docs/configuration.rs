//! Configuration files in the pages and in `examples/config` are taken without a word.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use ssh_substituter::config::{Config, Sources};

use super::pages::{self, crate_root};
use super::support::{SHORT, Scratch, run_with_timeout, tool};

/// What the program makes of a folder with configuration files.
pub fn load(folder: &Path) -> Result<Config, String> {
    let folder: OsString = folder.into();
    let sources = Sources {
        env: Box::new(move |name| (name == "NIX_CONF_DIR").then(|| folder.clone())),
        uid: 0,
        home: None,
        hosts: Vec::new(),
        push_hosts: Vec::new(),
        store: None,
        options: Vec::new(),
    };
    let (config, warnings) =
        Config::load(sources).map_err(|error| ssh_substituter::report::line(&error))?;
    match warnings.is_empty() {
        true => Ok(config),
        false => Err(warnings.join("\n")),
    }
}

/// `ssh-substituter.conf` with this text.
pub fn own_conf(text: &str) -> Result<(), String> {
    let scratch = Scratch::new();
    scratch.write("ssh-substituter.conf", text);
    load(scratch.path()).map(|_| ())
}

/// `nix.conf` with this text: it is Nix's own, so a real Nix takes it without a warning, too.
pub fn nix_conf(text: &str) -> Result<(), String> {
    let scratch = Scratch::new();
    scratch.write("nix.conf", text);
    load(scratch.path())?;
    nix_takes(scratch.path())
}

fn nix_takes(folder: &Path) -> Result<(), String> {
    let mut command = Command::new(tool("nix"));
    command
        .args([
            "--extra-experimental-features",
            "nix-command",
            "show-config",
        ])
        .env("NIX_CONF_DIR", folder)
        .env("NIX_USER_CONF_FILES", "")
        .env_remove("NIX_CONFIG");
    let output = run_with_timeout(command, SHORT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() && said.is_empty() {
        true => Ok(()),
        false => Err(said),
    }
}

#[test]
fn ready_files_load_without_warnings() {
    let sets = ["laptop", "ci", "daemon"];
    for set in sets {
        let folder = crate_root().join("examples/config").join(set);
        let config = load(&folder).unwrap_or_else(|error| panic!("{set}: {error}"));
        assert!(!config.hosts.is_empty(), "{set} has no hosts");
        nix_takes(&folder).unwrap_or_else(|error| panic!("{set}: {error}"));
        let nix = pages::read(&format!("examples/config/{set}/nix.conf"));
        assert!(nix.contains("ssh://localhost?remote-program="), "{set}");
    }
    let there = pages::files("examples/config", ".conf");
    assert_eq!(there.len(), 2 * sets.len(), "{there:?}");
}
