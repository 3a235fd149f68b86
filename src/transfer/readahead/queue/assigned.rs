//! A NAR that one worker is to bring.

use std::sync::Arc;

use super::ReadaheadQueue;
use super::backlog::MAX_FAILURES;
use crate::pool::HostId;
use crate::transfer::hosts::OutstandingBytes;
use crate::transfer::readahead::task::{Failures, OwnerId, ReadaheadTask, SMALL_NAR};

/// How long others may wait for a channel on which a large NAR comes that no caller waits for, in seconds.
const LONGEST_WAIT_SECS: f64 = 5.0;

/// A task of a worker. Dropping it unfinished requeues it.
pub(in crate::transfer::readahead) struct AssignedTask {
    pub(in crate::transfer::readahead) task: Arc<ReadaheadTask>,
    pub(in crate::transfer::readahead) owner: OwnerId,
    pub(super) queue: Arc<ReadaheadQueue>,
    pub(super) outstanding: Option<OutstandingBytes>,
    pub(super) done: bool,
}

impl AssignedTask {
    /// So many bytes of it have come.
    pub(in crate::transfer::readahead) fn received(&mut self, bytes: u64) {
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.on_received(bytes);
        }
    }

    /// Whether the `rest` of it would keep a channel for long that somebody waits for, and no caller waits for it.
    pub(in crate::transfer::readahead) fn is_in_the_way(&self, host: HostId, rest: u64) -> bool {
        let secs = self.queue.bookkeeping.throughput.stream_secs(host, rest);
        !self.task.is_wanted() && secs.is_some_and(|secs| secs > LONGEST_WAIT_SECS)
    }

    /// Whether another host would send all of it long before this one has sent the `rest`.
    pub(in crate::transfer::readahead) fn is_overtaken(&self, host: HostId, rest: u64) -> bool {
        let (bookkeeping, info) = (&self.queue.bookkeeping, &self.task.info);
        let mut others = bookkeeping.holders(&info.path, &self.task.holders);
        others.retain(|other| {
            bookkeeping.pool.is_healthy(*other)
                && !bookkeeping.sent_wrong_content(*other, &info.path)
        });
        let throughput = &bookkeeping.throughput;
        throughput.is_overtaken(host, rest, info.nar_size, &others)
    }

    /// It is complete, or belongs to another worker.
    pub(in crate::transfer::readahead) fn finish(mut self) {
        self.done = true;
    }

    /// The worker cannot bring it. With `blamed`, no worker tries it again, unless it is a large one, which takes the caller
    /// long to fetch by itself: another host may bring it.
    pub(in crate::transfer::readahead) fn fail(mut self, blamed: bool) {
        let more = match blamed {
            false => 0,
            true if self.task.info.nar_size > SMALL_NAR => 1,
            true => MAX_FAILURES,
        };
        let mut failures = self.task.failures;
        failures.count = failures.count.saturating_add(more);
        self.requeue(failures);
    }

    /// The worker cannot bring it in its way, which says nothing of any host. With `again`, another one may.
    pub(in crate::transfer::readahead) fn fail_blameless(self, again: bool) {
        self.task.set_blameless();
        self.fail(!again);
    }

    /// It does not come in chunks. A worker of one host may bring it whole.
    pub(in crate::transfer::readahead) fn fail_in_chunks(mut self) {
        self.requeue(Failures {
            in_chunks: true,
            ..self.task.failures
        });
    }

    fn requeue(&mut self, failures: Failures) {
        self.done = true;
        let task = &self.task;
        if !task.give_up(self.owner) {
            return;
        }
        let mut backlog = self.queue.backlog.lock();
        // The caller may have taken it meanwhile.
        if backlog.tasks.remove(&task.info.path).is_some() {
            backlog.expect(&task.info, &task.holders, failures);
        }
    }
}

impl Drop for AssignedTask {
    fn drop(&mut self) {
        if !self.done {
            self.requeue(self.task.failures);
        }
        self.queue.wake();
    }
}
