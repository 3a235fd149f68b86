//! No promise that cannot be kept: what is remembered of hosts is checked before a caller is told of it.

#[path = "../query_support/mod.rs"]
mod query_support;
#[path = "../support/mod.rs"]
mod support;

mod front_ends;
mod resolver;

use std::time::Duration;

/// After this time what a host said has to be checked.
const LATER: Duration = Duration::from_secs(11);
