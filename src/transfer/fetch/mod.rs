//! One NAR on its way to its sink, whatever breaks meanwhile.
//!
//! ```text
//!   front end ─▶ Fetch ─▶ Source (readahead | rebuild | differences | chunks | plain) ─▶ Verifier ─▶ NarSink
//!
//!                          ┌──────────────────── Stop ◀───────────────────┐
//!                          ▼                                              │
//!   start ──▶ choosing a source ──▶ delivering ──▶ Step::Complete ──▶ done
//!      read ahead?         │             ▲  │
//!      else chunks?        │             └──┘ Step::Write, passed on
//!      else the next host  │
//!                          └─ no host is left ──▶ failed
//! ```
//!
//! How far the NAR is stands in one place, the [`Verifier`]: each source goes on from its offset. Which source comes next is
//! decided in [`Fetch::next_source`], and what a [`Stop`] means for that in [`Fetch::go_on_after`]. Nothing else here knows
//! one source from another.

mod retry_policy;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::sleep;

use super::chunks::{ChunkedDownloads, MIN_NAR_SIZE, URGENT};
use super::deltas::{DeltaState, Deltas};
use super::error::{HostFault, TransferError};
use super::hosts::HostBookkeeping;
use super::nar_sink::NarSink;
use super::partial::{Keeper, Partials, prove};
use super::progress::TransferProgress;
use super::readahead::TransferContext;
use super::request::FetchRequest;
use super::source::{
    ChunkSource, DeltaSource, PartialSource, PlainDump, PlainSource, ReadaheadSource,
    RebuildSource, Source, Step, Stop,
};
use super::verify::{Piece, Verifier};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::wire::nar::layout::Layout;
use retry_policy::{AttemptOutcome, RetryPolicy};

/// The pause before chunks are tried again after they have brought something; it doubles.
const CHUNKS_PAUSE: Duration = Duration::from_millis(250);

/// The longest such pause, as a power of two of the first.
const CHUNKS_PAUSE_DOUBLINGS: u32 = 5;

/// How often chunks may bring nothing before they are not tried any more: each time takes some seconds.
const MAX_FRUITLESS_CHUNKS: u32 = 2;

/// How long a caller may take nothing before others get the channel that its NAR comes on, if they need
/// it; doubled with each time, since mostly all that was passed on has to come again then.
const DISPLACE_AFTER: Duration = Duration::from_secs(3);

/// The longest such time, as a power of two of the first.
const DISPLACE_DOUBLINGS: u32 = 4;

/// One path that is being fetched.
pub(super) struct Fetch<'a> {
    bookkeeping: &'a HostBookkeeping,
    chunks: &'a ChunkedDownloads,
    deltas: &'a Deltas,
    partials: Option<&'a Arc<Partials>>,
    request: &'a FetchRequest<'a>,
    progress: &'a dyn TransferProgress,
    sink: &'a mut dyn NarSink,
    verifier: Verifier,
    /// The furthest that it has been, in bytes.
    furthest: u64,
    /// Keeps what is passed on for a later command.
    keeper: Keeper,
    /// How its files lie at a host that has proven what an earlier command received.
    index: Option<(HostId, Layout)>,
    retries: RetryPolicy,
    /// Chunks brought nothing, and no other source has brought anything since.
    chunks_are_fruitless: bool,
    fruitless_chunks: u32,
    /// How often chunks broke off after they had brought something.
    chunk_breaks: u32,
    /// How often others got the channel, since the caller took nothing for long.
    displaced: u32,
    /// What was wrong with each host that was tried, in that order.
    faults: Vec<HostFault>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        context: &'a TransferContext,
        request: &'a FetchRequest<'a>,
        progress: &'a dyn TransferProgress,
        sink: &'a mut dyn NarSink,
    ) -> Self {
        let verifier = match request.resume.clone() {
            Some(resume) => Verifier::resumed(request.info, resume),
            None => Verifier::new(request.info),
        };
        let passed_on = request.resume.as_ref().map_or(0, |resume| resume.at);
        let partials = context.partials.as_ref();
        Self {
            bookkeeping: &context.bookkeeping,
            chunks: &context.chunks,
            deltas: &context.deltas,
            partials,
            request,
            progress,
            sink,
            furthest: verifier.offset(),
            verifier,
            keeper: Keeper::new(partials, request.info, passed_on),
            index: None,
            retries: RetryPolicy::default(),
            chunks_are_fruitless: false,
            fruitless_chunks: 0,
            chunk_breaks: 0,
            displaced: 0,
            faults: Vec::new(),
        }
    }

    /// Fetches it; gives the size of the NAR.
    ///
    /// # Errors
    /// When no host can deliver, or the sink takes no more.
    pub(super) async fn run(&mut self) -> Result<u64, TransferError> {
        let mut source = match self.kept().await {
            Some(kept) => {
                // No worker is to bring it from its first byte on.
                drop(self.read_ahead());
                Some(kept)
            }
            None => self.read_ahead(),
        };
        loop {
            let current = match source.take() {
                Some(source) => source,
                None => self.next_source().await?,
            };
            match self.deliver(current).await? {
                None => {
                    self.keeper.remove().await;
                    return Ok(self.verifier.offset());
                }
                Some(stop) => self.go_on_after(stop).await,
            }
        }
    }

    /// What has been passed on, to be completed.
    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    fn info(&self) -> &'a PathInfo {
        self.request.info
    }

    fn holders(&self) -> Vec<HostId> {
        self.bookkeeping
            .holders(&self.info().path, self.request.holders)
    }

    /// Passes on what `source` brings, until the NAR is complete or the source stops.
    async fn deliver(
        &mut self,
        mut source: Box<dyn Source + 'a>,
    ) -> Result<Option<Stop>, TransferError> {
        loop {
            match source.next(&mut self.verifier).await {
                Ok(Step::Write(piece)) => {
                    if let Some(stop) = self.write(piece, &mut *source).await? {
                        return Ok(Some(stop));
                    }
                }
                Ok(Step::Complete(pieces)) => {
                    for piece in pieces {
                        self.write(piece, &mut *source).await?;
                    }
                    return Ok(None);
                }
                Err(stop) => return Ok(Some(stop)),
            }
        }
    }

    /// Writes a piece to the sink. When that takes long and others need what the source occupies, they get it.
    async fn write(
        &mut self,
        piece: Piece,
        source: &mut (dyn Source + 'a),
    ) -> Result<Option<Stop>, TransferError> {
        let bytes = piece.bytes.clone();
        let mut write = self.sink.write(piece);
        let (written, stop) = tokio::select! {
            biased;
            written = &mut write => (written, None),
            () = source.until_needed_elsewhere() => {
                source.release();
                (write.await, Some(Stop::Displaced))
            }
        };
        match written {
            Ok(()) => {
                let (known, request) = (self.bookkeeping, self.request);
                let holders = || known.holders(&request.info.path, request.holders);
                self.keeper.keep(&bytes, known, holders).await;
                Ok(stop)
            }
            Err(source) => Err(TransferError::Sink {
                path: self.request.info.path.clone(),
                source,
            }),
        }
    }

    /// What an earlier command has received of it, if a host proves that it has the same.
    async fn kept(&mut self) -> Option<Box<dyn Source + 'a>> {
        let (partials, info) = (self.partials?, self.info());
        if !self.chunks.is_possible(info) {
            return None;
        }
        let (file, size) = partials.open(info).await?;
        // Without parts of the NAR the first bytes would come again anyway.
        if size < MIN_NAR_SIZE {
            self.keeper.begin_in(file);
            return None;
        }
        let (holders, known) = (self.holders(), (self.bookkeeping, self.chunks));
        let kept = (&**partials, &file, size);
        let proof = prove(known, (info, &holders), kept).await;
        if proof.differs {
            log::debug!(
                "{}: what was kept of it differs behind {} bytes",
                info.path,
                proof.size
            );
            let (cut, size) = (file.clone(), proof.size);
            if partials.run(move || cut.truncate(size)).await.is_err() {
                self.keeper.leave(file, 0);
                return None;
            }
        }
        if proof.size < MIN_NAR_SIZE {
            match proof.differs {
                true => self.keeper.begin_in(file),
                false => self.keeper.leave(file, size),
            }
            return None;
        }
        self.progress.goes_on_from(proof.size);
        self.keeper.go_on_behind(file.clone(), proof.size);
        self.index = proof.index;
        let source = PartialSource::new(partials.clone(), (file, proof.size), self.progress);
        Some(Box::new(source))
    }

    /// What the readahead has of it. It begins at the first byte, so it is of no use for the rest of a NAR.
    fn read_ahead(&self) -> Option<Box<dyn Source + 'a>> {
        if self.request.resume.is_some() {
            return None;
        }
        let (readahead, info) = (&self.request.caller.readahead, self.info());
        let source = ReadaheadSource::find(
            readahead,
            info,
            &self.holders(),
            self.bookkeeping,
            self.progress,
        )?;
        Some(Box::new(source))
    }

    /// Who brings the rest: several hosts in chunks, where that is of use, else the next host to be tried.
    async fn next_source(&mut self) -> Result<Box<dyn Source + 'a>, TransferError> {
        if self.verifier.offset() == 0 && self.request.resume.is_none() {
            let (deltas, info, holders) = (self.deltas, self.info(), self.holders());
            let state = deltas.decided(info, &holders);
            // Not across the wait: the sink cannot be shared.
            let progress = self.progress;
            match state.await {
                DeltaState::Rebuild(rebuild) => {
                    return Ok(Box::new(RebuildSource::new(
                        deltas, info, rebuild, progress,
                    )));
                }
                DeltaState::Yes(base) => {
                    return Ok(Box::new(DeltaSource::new(deltas, info, base, progress)));
                }
                DeltaState::No | DeltaState::Undecided(_) => {}
            }
        }
        if let Some(source) = self.in_chunks() {
            return Ok(Box::new(source));
        }
        let Some((host, pause)) = self.next_host() else {
            let faults = std::mem::take(&mut self.faults);
            return Err(TransferError::Nobody {
                path: self.info().path.clone(),
                faults,
            });
        };
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let dump = PlainDump {
            bookkeeping: self.bookkeeping,
            info: self.info(),
            host,
            chunks: self.chunks,
            holders: self.holders(),
            displace_after: DISPLACE_AFTER * (1 << self.displaced.min(DISPLACE_DOUBLINGS)),
        };
        Ok(Box::new(PlainSource::new(dump, self.progress)))
    }

    fn in_chunks(&mut self) -> Option<ChunkSource<'a>> {
        if self.chunks_are_fruitless || self.fruitless_chunks >= MAX_FRUITLESS_CHUNKS {
            return None;
        }
        let (from, holders) = (self.verifier.offset(), self.holders());
        let urgent = Arc::new(AtomicU64::new(URGENT));
        let (info, index) = (self.info(), self.index.take());
        let download = self
            .chunks
            .start_with(info, &holders, from, urgent, index)?;
        Some(ChunkSource::new(
            download,
            &self.bookkeeping.pool,
            self.progress,
        ))
    }

    /// Which host is asked next for all of the rest, and after which pause.
    fn next_host(&mut self) -> Option<(HostId, Duration)> {
        let (info, bookkeeping, holders) = (self.info(), self.bookkeeping, self.holders());
        // Without a hash nothing says that another host has the same.
        let others = bookkeeping.pool.hosts().filter(|_| info.nar_hash.is_some());
        let mut all = holders.clone();
        all.extend(others.filter(|host| !holders.contains(host)));
        // Better to ask a host that may lack it than to wait for one that was found dead.
        let remaining = info.nar_size.saturating_sub(self.verifier.offset());
        bookkeeping
            .throughput
            .put_late_ones_last(&mut all, remaining);
        let mut candidates = bookkeeping.pool.in_order_of_health(&all);
        candidates.retain(|host| {
            let Some(fault) = bookkeeping.known_wrong_content(*host, &info.path) else {
                return true;
            };
            // A worker that failed has recorded the reason there and not here.
            if !self.retries.is_excluded(*host) {
                self.faults.push(fault);
            }
            self.retries.record(*host, AttemptOutcome::Excluded);
            false
        });
        self.retries.next(&candidates, self.verifier.offset() > 0)
    }

    /// A source stopped: what follows from that for the next one.
    async fn go_on_after(&mut self, stop: Stop) {
        // What was held back counts: a host that always breaks at the same byte may pass on a little more each time.
        let new_bytes = self.verifier.offset() > self.furthest;
        self.furthest = self.furthest.max(self.verifier.offset());
        // What was kept counts, whether it was passed on before or not.
        if !matches!(stop, Stop::KeptHasEnded) {
            self.progress.lose(self.verifier.roll_back());
        }
        let is_wrong = match &stop {
            Stop::KeptIsWrong => true,
            Stop::Exhausted => !self.chunks.is_possible(self.info()),
            Stop::Fault { fault, .. } => fault.is_wrong_content(),
            _ => false,
        };
        if is_wrong {
            // What was passed on may be wrong, too.
            self.keeper.remove().await;
        }
        match stop {
            Stop::NotStarted | Stop::NoDelta | Stop::KeptHasEnded | Stop::KeptIsWrong => {}
            // Others come first.
            Stop::WorkerFailed(host) => self.retries.record(host, AttemptOutcome::NoNewBytes),
            Stop::Exhausted if new_bytes => {
                let doublings = self.chunk_breaks.min(CHUNKS_PAUSE_DOUBLINGS);
                self.chunk_breaks += 1;
                sleep(CHUNKS_PAUSE * (1 << doublings)).await;
            }
            Stop::Exhausted => {
                self.chunks_are_fruitless = true;
                self.fruitless_chunks += 1;
            }
            Stop::Displaced => {
                self.displaced += 1;
                self.chunks_are_fruitless = false;
            }
            Stop::Fault {
                host,
                fault,
                connected,
            } => {
                self.bookkeeping
                    .record_failure(host, &self.info().path, &fault)
                    .await;
                let outcome = match &*fault {
                    HostFault::Remote(_) if new_bytes => AttemptOutcome::NewBytes,
                    HostFault::Remote(_) if !connected => AttemptOutcome::NoConnection,
                    HostFault::Remote(error) if error.is_silence() => AttemptOutcome::Silent,
                    HostFault::Remote(_) => AttemptOutcome::NoNewBytes,
                    _ => AttemptOutcome::Excluded,
                };
                self.retries.record(host, outcome);
                self.chunks_are_fruitless &= !new_bytes;
                self.faults.push(*fault);
            }
        }
    }
}
