//! The front ends that Nix talks to on standard input and output: the text protocol of Nix 1.x (`text`), and with
//! [`crate::serve`] the serve protocol. They decode requests, ask a [`Backend`](crate::backend::Backend), and encode its
//! answers.
//!
//! Only this module opens stdout, and only protocol is written there.

mod stdio;
mod text;

pub use stdio::{is_read_by_lix, serve_output, stdin, stdout, stdout_closed};
pub use text::{QueryError, SubstituteError, query, substitute};
