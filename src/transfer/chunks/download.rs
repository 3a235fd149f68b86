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

/// How long the first chunk may take before another source is tried.
const FIRST_CHUNK_TIMEOUT: Duration = Duration::from_secs(4);

/// How often to check whether a chunk that has come is still to be held back.
pub(super) const CONFIRM_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A NAR that is being downloaded. Dropping it stops that.
pub(in crate::transfer) struct ChunkedDownload {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) nar: Arc<ChunkedNar>,
    limit: Duration,
    /// The first chunk has come.
    is_under_way: bool,
    buf: BytesMut,
}

impl ChunkedDownload {
    pub(super) fn start(scheduler: Arc<Scheduler>, nar: Arc<ChunkedNar>) -> Self {
        channel::start(&scheduler, &nar);
        Self {
            scheduler,
            nar,
            limit: FIRST_CHUNK_TIMEOUT,
            is_under_way: false,
            buf: BytesMut::new(),
        }
    }

    /// The bytes that have come in order. Take from the front.
    pub(in crate::transfer) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Appends the next chunk to the buffer, and gives its sender. `None` when no more comes, be it complete or not.
    pub(in crate::transfer) async fn more(&mut self) -> Option<HostId> {
        let (chunk, host) = loop {
            let before = (self.received(), self.scheduler.received());
            match timeout(self.limit, self.chunk()).await {
                Ok(chunk) => break chunk?,
                // The chunk is on its way over a slow link, or has come and is held back until it is confirmed, which has
                // a limit of its own.
                Err(_) if self.received() != before.0 || self.nar.waits_for_check() => {}
                // Later on others may come first.
                Err(_) if self.is_under_way && self.scheduler.received() != before.1 => {}
                Err(_) => {
                    log::debug!("{}: no more chunks come", self.nar.info.path);
                    return None;
                }
            }
        };
        // Stalls of a host are noticed by its channels, within this time.
        self.is_under_way = true;
        self.limit = 2 * self.scheduler.bookkeeping.pool.patience();
        match chunk.try_into_mut() {
            Ok(chunk) if self.buf.is_empty() => self.buf = chunk,
            Ok(chunk) => self.buf.extend_from_slice(&chunk),
            Err(chunk) => self.buf.extend_from_slice(&chunk),
        }
        Some(host)
    }

    /// Counts the bytes that come, of complete chunks or not.
    pub(in crate::transfer) fn meter(&self) -> Arc<AtomicU64> {
        self.nar.received().clone()
    }

    fn received(&self) -> u64 {
        self.nar.received().load(Ordering::Relaxed)
    }

    async fn chunk(&self) -> Option<(Bytes, HostId)> {
        loop {
            let with_channels = self.scheduler.with_channels(self.nar.hosts());
            let (chunk, done) = self.nar.take(&with_channels);
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
                true => CONFIRM_CHECK_INTERVAL,
                false => Duration::MAX,
            };
            let _ = timeout(limit, self.nar.changed()).await;
        }
    }

    /// Adds hosts that have become holders meanwhile.
    fn add_new_holders(&self) {
        let path = &self.nar.info.path;
        let holders = self.scheduler.bookkeeping.holders(path, &[]);
        let usable = self.scheduler.usable(path, &holders);
        channel::add_hosts(&self.scheduler, &self.nar, usable);
    }

    /// Records that the chunks did not make the promised NAR. It is not tried in chunks again, since it is not known
    /// which chunk was wrong.
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
