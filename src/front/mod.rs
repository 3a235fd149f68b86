//! The doors: thin, they decode requests, ask the rooms below, and encode replies.
//!
//! Only this room writes to stdout, and nothing but protocol.

mod attached;
mod closed;
mod engine_replies;
mod hosts;
mod local;
mod own_login;
mod serve_loop;
mod source;
mod stdio;
mod taker;
mod text;

pub use attached::{Alone, AttachedBackend};
pub use hosts::HostsBackend;
pub use local::LocalBackend;
pub use own_login::{ForHosts, OwnLoginBackend};
pub use serve_loop::{Backend, DumpError, ServeError, serve};
pub use source::{Reason, Source, Undelivered};
pub use stdio::{Splice, is_read_by_lix, stdin, stdout, stdout_closed};
pub use text::{QueryError, SubstituteError, query, substitute};
