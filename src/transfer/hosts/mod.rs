//! What is known of the hosts: who has what, who sent something wrong, and how fast each one is.

mod bookkeeping;
mod compression;
mod host_rate;
mod throughput;
mod traffic;

pub use bookkeeping::HolderLookup;
pub(super) use bookkeeping::HostBookkeeping;
pub(super) use throughput::OutstandingBytes;
pub(super) use traffic::Way;
pub use traffic::{HostTraffic, WayTraffic};
