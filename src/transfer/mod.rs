//! To be filled.

pub mod progress;
pub mod unpack;
