//! What goes into packages beside the program: real shells complete, real groff renders, a real Nix evaluates, and a real Nix
//! fetches through what the NixOS module writes.

#[path = "../support/mod.rs"]
mod support;

mod crate_files;
mod generated;
mod man;
mod module;
mod nix_files;
mod shells;
