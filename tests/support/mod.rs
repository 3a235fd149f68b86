//! What tests with real peers share: sshd, Nix stores, Nix as a caller, processes with a time limit.
//!
//! Everything lives in folders and process trees of its own and is gone when its value is dropped, so tests run in
//! parallel. What a test needs and is not installed makes it fail: `tests/run` installs it.
//!
//! Don't keep these values in a `static`: it is never dropped (the processes end with the test all the same, the folders
//! stay).

#![allow(dead_code, unused_imports)]

mod archive;
mod builds;
mod claims;
mod dag;
mod got;
mod host;
mod http_server;
mod nix;
mod ports;
mod proc;
mod relay;
mod runtime_dir;
mod scratch;
mod serve_client;
mod signals;
mod sshd;
mod store;
mod tiny;
mod trees;
mod user;
mod watchdog;

pub use dag::{Dag, DagOptions};
pub use got::Got;
pub use host::{Engines, Host, Masters, substituter};
pub use http_server::HttpServer;
pub use nix::{Nix, NixEnv, Ran};
pub use ports::closed_port;
pub use proc::{
    Daemon, children, descendants, is_stopped, kill_tree, resume_tree, run, run_with_input,
    run_with_timeout, stop_tree, tool, wait_until,
};
pub use relay::Relay;
pub use runtime_dir::{RuntimeDir, end_masters};
pub use scratch::Scratch;
pub use serve_client::{Came, ServeClient, Talk, guard};
pub use signals::default_signals;
pub use sshd::{Sshd, SshdBuilder, joint_ssh_config};
pub use store::{Entry, Store};
pub use tiny::Tiny;
pub use trees::{Random, canonicalise};
pub use user::{TempUser, is_root};

use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// How long one short command may take on a loaded machine.
pub const SHORT: Duration = Duration::from_secs(120);

// Set for integration tests and benchmarks; examples may include this module too.
const PROGRAM: Option<&str> = option_env!("CARGO_BIN_EXE_ssh-substituter");

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(PROGRAM.expect("only for integration tests and benchmarks"))
}

/// Bytes in the files below a folder.
pub fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(file) if file.is_dir() => bytes_below(&entry.path()),
            Ok(file) => file.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Shows text even where libtest collects what tests print.
pub fn show(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Percent-encodes all but the unreserved characters of RFC 3986 and `/`, for a parameter of a store URL.
pub fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
