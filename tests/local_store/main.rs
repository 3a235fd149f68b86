//! The module `local_store` against real stores made by the real Nix.

mod dumps;
mod questions;
mod sharing;
mod store;
