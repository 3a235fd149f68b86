//! What must hold for every input, stated once: the fuzz targets and the test `fuzz_corpus` call the
//! same functions. Each takes any bytes and panics when its rules do not hold.
//!
//! | module | input | of |
//! | --- | --- | --- |
//! | [`nar`] | a NAR, or a listing (see [`listing`]) | `wire::nar`, `transfer::unpack` |
//! | [`serve_client`] | what a remote sends | `wire::serve` |
//! | [`serve_server`] | what a caller sends | `wire::serve` |
//! | [`engine`] | what a front end and its engine send | `wire::serve::engine` |
//! | [`extension`] | what a host with this program and its client send | `wire::serve::extension` |
//! | [`differences`] | what a shell of a host prints, and patches | `remote::shell` |
//! | [`text`] | both directions of the classic protocol | `wire::text` |
//! | [`nix_conf`] | configuration files and variables | `config` |
//! | [`hosts`] | host specs, one a line | `config::host` |
//! | [`infos`] | a path info with signatures and keys, as lines | `model` |

pub mod differences;
pub mod engine;
pub mod extension;
pub mod hosts;
pub mod infos;
pub mod listing;
pub mod memory;
pub mod nar;
pub mod nix_conf;
pub mod pieces;
pub mod reading;
pub mod restore;
pub mod serve_client;
pub mod serve_server;
pub mod text;

/// A rule: takes any input, panics when something does not hold.
pub type Rule = fn(&[u8]);

/// All rules, by the names of their targets.
pub const ALL: [(&str, Rule); 10] = [
    ("nar", nar::check),
    ("serve_client", serve_client::check),
    ("serve_server", serve_server::check),
    ("engine", engine::check),
    ("extension", extension::check),
    ("differences", differences::check),
    ("text", text::check),
    ("nix_conf", nix_conf::check),
    ("hosts", hosts::check),
    ("infos", infos::check),
];

/// Messages about what came from outside are short and cannot steer a terminal.
pub fn assert_plain(message: &str) {
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.len() < 8000, "{} bytes: {message}", message.len());
}
