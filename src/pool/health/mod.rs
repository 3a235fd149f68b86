//! Whether hosts answer, in this process and for later ones.
//!
//! [`CircuitBreaker`] decides whether a host may be asked, [`HostHealth`] is that decision's state for one
//! host, and [`HostPersistence`] writes it to a [`HostStore`], where later processes find it.

mod circuit_breaker;
mod host_health;
mod persistence;
mod store;

pub(super) use circuit_breaker::{CircuitBreaker, Now, Standing};
pub(super) use host_health::{HostHealth, Probe};
pub(super) use persistence::HostPersistence;
pub use store::HostStore;
