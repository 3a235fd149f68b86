//! Machines that you can ssh into, as one binary cache for Nix.
//!
//! The crate is laid out in rooms; imports point downwards only (`tests/layout.rs` enforces it):
//!
//! | room | what it does |
//! | --- | --- |
//! | [`config`] | nix.conf-style files, environment and flags become one validated [`config::Config`]; host specs |
//! | [`front`] | the doors: the classic text protocol, the serve protocol, the local serve loop |
//! | [`app`], [`cli`] | from the command line to a door or a command |
//! | [`commands`] | what people do by hand: fetch, look, check |
//! | [`engine`] | the rooms below the doors, put together |
//! | [`resolver`] | which paths there are, and where |
//! | [`transfer`] | bytes of paths: choose hosts, read ahead, stream or put parts together, verify; restore to disk |
//! | [`cache`] | answers that were given already, in memory and on disk |
//! | [`pool`] | hosts, their connections, failover |
//! | [`remote`] | typed client of one serve connection, and of one shell |
//! | [`transport`] | a host becomes a pair of byte streams: OpenSSH, or a local child process |
//! | [`ipc`] | how front ends reach their engine: its socket, who starts it, the connection |
//! | `watch` | a value that changes, and tasks that are woken in order |
//! | [`folder`] | which folders and files other users cannot have a hand in |
//! | [`local_store`] | a real local Nix store, read only |
//! | [`wire`] | codecs without IO |
//! | [`model`] | store paths, hashes, path infos |
//! | [`hint`] | what to do about an error: a trait that error types implement |
//! | [`progress`], [`report`] | what people read: progress, messages with hints |

pub mod app;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
pub mod folder;
pub mod front;
pub mod hint;
pub mod ipc;
pub mod local_store;
pub mod model;
pub mod pool;
pub mod progress;
pub mod remote;
pub mod report;
pub mod resolver;
pub mod transfer;
pub mod transport;
mod watch;
pub mod wire;
