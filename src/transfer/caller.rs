//! One client of the front ends, for the readahead.

use std::sync::Arc;

use super::readahead::Readahead;
use crate::model::PathInfo;
use crate::pool::HostId;

/// A client that asks about paths and then fetches them, on one connection or on several. What is read ahead for it is
/// dropped with it.
pub struct Caller {
    pub(super) readahead: Readahead,
}

impl Caller {
    pub(super) fn new(readahead: Readahead) -> Self {
        Self { readahead }
    }

    /// The caller has asked what this path is and got this answer. From its first
    /// [`fetch`](super::Transfers::fetch) on, such paths are read ahead.
    pub fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        self.readahead.expect(info, holders);
    }

    /// The caller has begun something else: it may fetch again what it has fetched.
    pub fn forget_fetched(&self) {
        self.readahead.forget_fetched();
    }

    /// Drops what was read ahead, when the caller has not fetched anything for a minute. To be
    /// called now and then.
    pub fn pause_if_idle(&self) {
        self.readahead.pause_if_idle();
    }
}
