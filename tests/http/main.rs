//! The binary cache over HTTP: real hosts behind it, a real Nix in front of it, and a client that sees each header and byte.

mod doctor;
mod hosts;
mod listing;
mod logs;
mod nar;
mod narinfo;
mod packed;
mod page;
mod refusals;
mod server;
mod sockets;
mod together;
mod trust;
mod with_nix;

#[path = "../support/mod.rs"]
mod support;
