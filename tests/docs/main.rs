//! The documentation against the program: what it shows is understood, what it lists is complete, what it tells to do works.
//!
//! Every code block names its language and, after it, what the block is, where that is not all to be said: a file's name, or the
//! step of a how-to. A block in a language that is not known here is an error, so none escapes.

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod blocks;
mod ci;
mod commands;
mod configuration;
mod daemon;
mod examples;
mod http;
mod laptop;
mod links;
mod messages;
mod moving;
mod pages;
mod push;
mod push_queue;
mod readme;
mod restricted;
mod settings;
mod stage;
