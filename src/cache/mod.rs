//! Answers that were given already.

pub mod disk;
mod memory_cache;

pub use disk::{Disk, Lifetimes};
pub use memory_cache::MemoryCache;
