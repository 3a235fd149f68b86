//! What is verified of a NAR before it is passed on, and how far it is.

mod checkpoint;
mod content_check;
mod verifier;

pub use checkpoint::{Checkpoint, Piece, ResumePoint};
pub(super) use verifier::{HELD_BACK_MAX, Taken, Verifier};
