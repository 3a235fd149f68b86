//! Configuration. To be filled.

pub mod host;
mod value;
