//! Machines that you can ssh into, as one binary cache for Nix.
//!
//! Modules import only modules below them (`tests/layout.rs` enforces it):
//!
//! | module | what it does |
//! | --- | --- |
//! | [`config`] | nix.conf-style files, environment and flags become one validated [`config::Config`]; host specs |
//! | [`app`], [`cli`] | from the command line to a front end, an engine or a command |
//! | [`front`] | standard input and output, and the text protocol of Nix 1.x |
//! | [`commands`] | what people do by hand: fetch, look, check |
//! | [`engine`] | resolver, transfers and pool, built from a configuration; the same as a process of its own |
//! | [`serve`] | the serve protocol, over any backend |
//! | [`http`] | a binary cache over HTTP, over any backend |
//! | [`backend`] | who answers requests: hosts, an engine, a local store |
//! | [`resolver`] | which paths there are, and where |
//! | [`transfer`] | bytes of paths: choose hosts, read ahead, stream or put parts together, verify; restore to disk |
//! | [`push`] | sends store paths of this machine to hosts |
//! | [`cache`] | answers that were given already, in memory and on disk |
//! | [`push_queue`] | paths that are to be sent to hosts in the background, on disk |
//! | [`pool`] | hosts, their connections, failover |
//! | [`remote`] | typed client of one serve connection, and of one shell |
//! | [`transport`] | a host becomes a pair of byte streams: OpenSSH, or a local child process |
//! | [`ipc`] | how front ends reach their engine: its socket, who starts it, the connection |
//! | `watch` | a value that changes, and tasks that are woken in order |
//! | `sqlite` | databases of ours that several processes use |
//! | `sys` | what the systems that it runs on do differently |
//! | [`folder`] | which folders and files other users cannot have a hand in |
//! | [`local_store`] | a real local Nix store, read only |
//! | [`wire`] | codecs without IO |
//! | [`model`] | store paths, hashes, path infos |
//! | [`hint`] | what to do about an error: a trait that error types implement |
//! | [`progress`], [`report`] | what people read: progress, messages with hints |

pub mod app;
pub mod backend;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
pub mod folder;
pub mod front;
pub mod hint;
pub mod http;
pub mod ipc;
pub mod local_store;
pub mod model;
pub mod pool;
pub mod progress;
pub mod push;
pub mod push_queue;
pub mod remote;
pub mod report;
pub mod resolver;
pub mod serve;
mod sqlite;
mod sys;
pub mod transfer;
pub mod transport;
mod watch;
pub mod wire;
