//! What people look at by hand: `status`, `doctor`, `cache`, `config show`. The program as a process, real sshd, real stores,
//! a real Nix.

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod config;
mod doctor;
mod machine;
mod status;
