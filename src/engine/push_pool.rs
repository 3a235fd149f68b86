//! The hosts that paths are sent to.

use std::sync::Arc;

use super::{HEDGE_DELAY, ssh_transport};
use crate::config::Config;
use crate::pool::{Limits, Notify, Pool};

/// The hosts of `ssh-substituter-push-hosts`, in their order. What becomes of them is not kept for later processes: that
/// a host takes no paths says nothing of what it has. Nothing is connected yet.
#[must_use]
pub fn push_pool(config: &Config, notify: Notify) -> Arc<Pool> {
    let limits = Limits {
        connect: config.connect_timeout,
        silence: config.stall_timeout,
        hedge: HEDGE_DELAY,
    };
    let hosts = config.push_hosts.clone();
    Arc::new(Pool::new(
        hosts,
        ssh_transport(config),
        limits,
        notify,
        None,
    ))
}
