//! Hosts that mean harm, one attack after the other: the program neither hangs, nor grows, nor answers anything wrong, an
//! honest host behind the hostile one still delivers, and what people read is one harmless line that names the host.

#[path = "../support/mod.rs"]
mod support;
// Others use all of it.
#[allow(dead_code)]
#[path = "../engine/talk.rs"]
mod talk;

mod callers;
mod far;
mod host;
mod names;
mod noise;
mod scene;
mod shells;
mod silence;
mod sizes;
mod words;
