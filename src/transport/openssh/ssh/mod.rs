//! How the program `ssh` is run, and what it prints.

pub(super) mod arguments;
pub(super) mod ciphers;
pub(super) mod config;
pub(super) mod diagnose;
pub(super) mod environment;
pub(super) mod master_log;
pub(super) mod relative_paths;
