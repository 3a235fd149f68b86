//! Progress as people and programs see it: on real terminals of all sizes, in pipes, and beside Nix's own.

#[path = "../support/mod.rs"]
mod support;

mod bars;
mod json;
mod messages;
mod nix;
mod scenes;
mod several;
mod terminal;
