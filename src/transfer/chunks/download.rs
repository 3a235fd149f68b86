//! One NAR that is put together from chunks, for whoever takes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{sleep_until, timeout};

use super::channel;
use super::chunked_nar::ChunkedNar;
use super::scheduler::Scheduler;
use crate::pool::HostId;

/// How long the first chunk may take before the NAR is asked for in the plain way.
const START: Duration = Duration::from_secs(4);

/// How often it is looked whether a chunk that has come is still to be held back.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// A NAR on its way. Dropping it stops that.
pub(in crate::transfer) struct ChunkedDownload {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) nar: Arc<ChunkedNar>,
    limit: Duration,
    buf: BytesMut,
}

impl ChunkedDownload {
    pub(super) fn start(scheduler: Arc<Scheduler>, nar: Arc<ChunkedNar>) -> Self {
        channel::start(&scheduler, &nar);
        Self {
            scheduler,
            nar,
            limit: START,
            buf: BytesMut::new(),
        }
    }

    /// What has come in order and was not taken off yet.
    pub(in crate::transfer) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Puts the next chunk behind what is left in the buffer, and gives its sender; `None` when no more
    /// comes, be it complete or not.
    pub(in crate::transfer) async fn more(&mut self) -> Option<HostId> {
        let (chunk, host) = loop {
            let before = self.received();
            match timeout(self.limit, self.chunk()).await {
                Ok(chunk) => break chunk?,
                // A chunk takes its time on a slow link.
                Err(_) if self.received() != before => {}
                Err(_) => return None,
            }
        };
        // Channels know by themselves what is too long.
        self.limit = Duration::MAX;
        match chunk.try_into_mut() {
            Ok(chunk) if self.buf.is_empty() => self.buf = chunk,
            Ok(chunk) => self.buf.extend_from_slice(&chunk),
            Err(chunk) => self.buf.extend_from_slice(&chunk),
        }
        Some(host)
    }

    /// Counts the bytes that come, whole chunks or not.
    pub(in crate::transfer) fn meter(&self) -> Arc<AtomicU64> {
        self.nar.received().clone()
    }

    fn received(&self) -> u64 {
        self.nar.received().load(Ordering::Relaxed)
    }

    async fn chunk(&self) -> Option<(Bytes, HostId)> {
        loop {
            let at_work = self.scheduler.at_work(self.nar.hosts());
            let (chunk, done) = self.nar.take(&at_work);
            channel::reopen_channels(&self.scheduler, &self.nar, self.nar.ignore_backoff);
            if chunk.is_some() {
                self.scheduler.wake();
                self.add_new_holders();
                return chunk;
            }
            if done {
                return None;
            }
            if !self.scheduler.can_bring(&self.nar) {
                // What has come out of order is kept meanwhile.
                sleep_until(self.nar.retry_at()?).await;
                channel::reopen_channels(&self.scheduler, &self.nar, true);
                continue;
            }
            let limit = match self.nar.waits_for_check() {
                true => LOOK,
                false => Duration::MAX,
            };
            let _ = timeout(limit, self.nar.changed()).await;
        }
    }

    /// Hosts may have told meanwhile that they have it too.
    fn add_new_holders(&self) {
        let path = &self.nar.info.path;
        let holders = self.scheduler.bookkeeping.holders(path, &[]);
        let usable = self.scheduler.usable(path, &holders);
        channel::add_hosts(&self.scheduler, &self.nar, usable);
    }

    /// What was put together is not the NAR that was promised: it is not tried again, since nobody
    /// can tell whose chunk it was.
    pub(in crate::transfer) fn report_wrong_content(&self) {
        self.scheduler
            .bookkeeping
            .record_wrong_chunks(&self.nar.info.path);
    }
}

impl Drop for ChunkedDownload {
    fn drop(&mut self) {
        self.scheduler.remove(&self.nar);
    }
}
