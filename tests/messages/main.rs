//! Each failure is one line that names the host, what happened, and how to fix it. Every test makes its failure happen for
//! real and runs the real program.

#[path = "../support/mod.rs"]
mod support;

mod caller;
mod content;
mod login;
mod program;
mod reach;
mod silence;
mod uid;
