//! The cache tiers: answers about paths in memory and on disk, and hosts' health on disk.

pub mod disk;
mod memory_cache;

pub use disk::{Disk, Lifetimes};
pub use memory_cache::MemoryCache;
