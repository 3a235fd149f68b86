//! What the examples share: stores made without Nix, and "hosts" that serve them without ssh.

#![allow(dead_code, unused_imports)]

mod hosts;
mod store;

use std::error::Error;
use std::io::Write;

pub use hosts::{serve, serves, transport};
pub use store::{make_store, paths, register};

pub type Outcome = Result<(), Box<dyn Error>>;

/// To stderr: stdout is for protocol, in the examples as in the program.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
