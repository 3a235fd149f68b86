//! A NAR that is read ahead, or that a worker requests at once.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::{Source, SourceProgress, Step, Stop};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::hosts::HostBookkeeping;
use crate::transfer::progress::TransferProgress;
use crate::transfer::readahead::{ReadEvent, Readahead, ReadaheadHit, TaskReader};
use crate::transfer::verify::Verifier;

/// How long a NAR that is read ahead may not move before another host is asked for it.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// How long a worker may take to request what the caller waits for. It does so at once, unless all are busy
/// with larger NARs.
const REQUEST_LIMIT: Duration = Duration::from_millis(50);

/// Brings what a worker of the readahead brings. It hands over the worker's own verifier when it ends.
pub(in crate::transfer) struct ReadaheadSource<'a> {
    readahead: &'a Readahead,
    reader: TaskReader,
    /// No worker has requested it yet.
    is_queued: bool,
    stall_limit: Duration,
    progress: SourceProgress<'a>,
}

impl<'a> ReadaheadSource<'a> {
    /// What is read ahead of this path, or will be soon.
    pub(in crate::transfer) fn find(
        readahead: &'a Readahead,
        info: &PathInfo,
        holders: &[HostId],
        bookkeeping: &'a HostBookkeeping,
        progress: &'a dyn TransferProgress,
    ) -> Option<Self> {
        let (reader, is_queued) = match readahead.fetch(info, holders)? {
            ReadaheadHit::Requested(reader) => (reader, false),
            ReadaheadHit::Queued(reader) => (reader, true),
        };
        let host = reader.task.host();
        let mut progress = SourceProgress::new(progress, &bookkeeping.pool);
        progress.set_host(host);
        let holders = bookkeeping.holders(&info.path, &reader.task.holders);
        let mut others = holders.into_iter().filter(|other| *other != host);
        let stall_limit = match others.any(|host| bookkeeping.pool.is_healthy(host)) {
            true => STALL_LIMIT,
            false => Duration::MAX,
        };
        Some(Self {
            readahead,
            reader,
            is_queued,
            stall_limit,
            progress,
        })
    }
}

#[async_trait]
impl Source for ReadaheadSource<'_> {
    async fn next(&mut self, verifier: &mut Verifier) -> Result<Step, Stop> {
        let mut received = self.reader.task.received();
        loop {
            let limit = match self.is_queued {
                true => REQUEST_LIMIT,
                false => self.stall_limit,
            };
            match timeout(limit, self.reader.next()).await {
                Ok(ReadEvent::Piece(piece, host)) => {
                    self.is_queued = false;
                    self.progress.set_host(host);
                    self.progress.advance(piece.bytes.len() as u64);
                    return Ok(Step::Write(piece));
                }
                Ok(ReadEvent::Complete(theirs)) => {
                    *verifier = *theirs;
                    return Ok(Step::Complete(Vec::new()));
                }
                Ok(ReadEvent::Broken(theirs)) => {
                    *verifier = *theirs;
                    return Err(Stop::WorkerFailed(self.reader.task.host()));
                }
                Ok(ReadEvent::Lost(theirs)) => {
                    *verifier = *theirs;
                    return Err(Stop::NotStarted);
                }
                Err(_) if self.is_queued => {
                    self.is_queued = false;
                    if self.readahead.cancel(&self.reader) {
                        return Err(Stop::NotStarted);
                    }
                }
                // Whether chunks stall is judged where they come.
                Err(_) if self.reader.task.is_in_chunks() => {}
                // It comes, slowly: a small NAR shows nothing before it is verified whole.
                Err(_) if self.reader.task.received() != received => {
                    received = self.reader.task.received();
                }
                Err(_) => {
                    self.reader.abandon();
                    self.stall_limit = Duration::MAX;
                }
            }
        }
    }
}
