//! One path on its way to whoever wants it, whatever breaks meanwhile.
//!
//! ```text
//!            read ahead ──complete──────────────────────────┐
//!                │ breaks, or nobody asked for it           │
//!                ▼                                          ▼
//!   ┌──▶ in parts, where that is of use ──complete──▶ verified, done
//!   │            │ brings nothing more                      ▲
//!   │            ▼                                          │
//!   └─fails── one host, straight through ──complete─────────┘
//! ```
//!
//! How far the NAR is stands in one place, the [`Verifier`]: whatever comes next goes on from there.

mod retry_policy;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::chunks::{ChunkedDownload, URGENT};
use super::error::{HostFault, TransferError};
use super::progress::TransferProgress;
use super::readahead::{ReadEvent, ReadaheadHit, TransferContext};
use super::source::{Attempt, Stopped};
use super::verify::{Taken, Verifier};
use super::{FetchRequest, NarSink};
use crate::model::PathInfo;
use crate::pool::HostId;
use retry_policy::{AttemptOutcome, RetryPolicy};

/// How long a NAR that is read ahead may not move before another host is asked for it.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// How long a worker may take to ask for what is waited for. It does so at once, unless all are busy
/// with larger ones.
const SOON: Duration = Duration::from_millis(50);

/// How often in a row parts may bring nothing before the rest comes from one host.
const FRUITLESS_PARTS: u32 = 1;

/// The pause before parts are tried again after they have brought something; it doubles.
const PARTS_PAUSE: Duration = Duration::from_millis(250);

/// For how long a caller may take nothing before others get the channel that its NAR comes on, if they need
/// it; doubled with each time, since mostly all that was passed on has to come again then.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest such time, as a power of two of the first.
const PATIENCE_DOUBLINGS: u32 = 4;

/// One path that is being fetched.
pub(super) struct Fetch<'a> {
    context: &'a TransferContext,
    request: &'a FetchRequest<'a>,
    watch: &'a dyn TransferProgress,
    sink: &'a mut dyn NarSink,
    /// How far it is.
    stream: Verifier,
    tries: RetryPolicy,
    /// How often in a row parts have brought nothing, and how often they have broken off.
    fruitless_parts: u32,
    broken_parts: u32,
    /// How often others got the channel, since the caller took nothing for long.
    gave_way: u32,
    /// What was wrong with each host that was tried, in that order.
    faults: Vec<HostFault>,
}

/// What came of parts.
enum Parts {
    /// All is there, and right.
    Complete,
    /// No more comes that way for now.
    Broke,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        context: &'a TransferContext,
        request: &'a FetchRequest<'a>,
        watch: &'a dyn TransferProgress,
        sink: &'a mut dyn NarSink,
    ) -> Self {
        let stream = match request.resume.clone() {
            Some(resume) => Verifier::resumed(request.info, resume),
            None => Verifier::new(request.info),
        };
        Self {
            context,
            request,
            watch,
            sink,
            stream,
            tries: RetryPolicy::default(),
            fruitless_parts: 0,
            broken_parts: 0,
            gave_way: 0,
            faults: Vec::new(),
        }
    }

    /// Fetches it; gives the size of the NAR.
    ///
    /// # Errors
    /// When no host can deliver, or the sink takes no more.
    pub(super) async fn run(&mut self) -> Result<u64, TransferError> {
        if self.take_from_readahead().await? {
            return Ok(self.info().nar_size);
        }
        loop {
            if self.in_parts().await? {
                return Ok(self.info().nar_size);
            }
            let Some((host, pause)) = self.next_host() else {
                let faults = std::mem::take(&mut self.faults);
                return Err(TransferError::nobody(self.info().path.clone(), faults));
            };
            if !pause.is_zero() {
                sleep(pause).await;
            }
            if let Some(size) = self.bring_from_host(host).await? {
                return Ok(size);
            }
        }
    }

    /// What has been passed on, to be completed.
    pub(super) fn stream(&self) -> &Verifier {
        &self.stream
    }

    fn info(&self) -> &'a PathInfo {
        self.request.info
    }

    fn holders(&self) -> Vec<HostId> {
        self.context
            .book
            .holders(&self.info().path, self.request.holders)
    }

    fn cannot_write(&self, source: io::Error) -> TransferError {
        TransferError::Sink {
            path: self.info().path.clone(),
            source,
        }
    }

    /// Passes on what is read ahead; whether that was all.
    async fn take_from_readahead(&mut self) -> Result<bool, TransferError> {
        if self.request.resume.is_some() {
            return Ok(false);
        }
        let (info, caller, book) = (self.info(), self.request.caller, &self.context.book);
        let (reader, mut waits) = match caller.ahead.fetch(info, &self.holders()) {
            Some(ReadaheadHit::Asked(reader)) => (reader, false),
            Some(ReadaheadHit::Waiting(reader)) => (reader, true),
            None => return Ok(false),
        };
        let task = &reader.task;
        let host = task.host();
        let mut shown = host;
        self.watch.set_host(&book.pool.host(host).to_string());
        let holders = book.holders(&info.path, &task.holders);
        let mut others = holders.into_iter().filter(|other| *other != host);
        let mut limit = match others.any(|host| book.pool.is_well(host)) {
            true => STALL_LIMIT,
            false => Duration::MAX,
        };
        let mut received = task.received();
        loop {
            match timeout(if waits { SOON } else { limit }, reader.next()).await {
                Ok(ReadEvent::Piece(piece, host)) => {
                    waits = false;
                    if std::mem::replace(&mut shown, host) != host {
                        self.watch.set_host(&book.pool.host(host).to_string());
                    }
                    self.watch.advance(piece.bytes.len() as u64);
                    let written = self.sink.write(piece).await;
                    written.map_err(|source| self.cannot_write(source))?;
                    received = task.received();
                }
                Ok(ReadEvent::Complete) => return Ok(true),
                Ok(ReadEvent::Broken(stream)) => {
                    self.stream = *stream;
                    // Others come first.
                    self.tries.ended(task.host(), AttemptOutcome::Fruitless);
                    return Ok(false);
                }
                Err(_) if waits => {
                    waits = false;
                    if caller.ahead.cancel(&reader) {
                        return Ok(false);
                    }
                }
                // It comes, slowly: what is verified whole shows nothing before its end.
                Err(_) if task.received() != received => received = task.received(),
                Err(_) => {
                    reader.abandon();
                    limit = Duration::MAX;
                }
            }
        }
    }

    /// Brings the rest in parts, as long as they bring something; whether that was all.
    async fn in_parts(&mut self) -> Result<bool, TransferError> {
        while self.fruitless_parts < FRUITLESS_PARTS {
            let (from, holders) = (self.stream.taken(), self.holders());
            let urgent = Arc::new(AtomicU64::new(URGENT));
            let parts = self
                .context
                .chunks
                .start(self.info(), &holders, from, urgent);
            let Some(parts) = parts else {
                return Ok(false);
            };
            if let Parts::Complete = self.assemble(parts).await? {
                return Ok(true);
            }
            if self.stream.taken() > from {
                sleep(PARTS_PAUSE * (1 << self.broken_parts.min(5))).await;
                self.broken_parts += 1;
            } else {
                self.fruitless_parts += 1;
            }
        }
        Ok(false)
    }

    async fn assemble(&mut self, mut parts: ChunkedDownload) -> Result<Parts, TransferError> {
        let mut shown = None;
        'nar: while let Some((buf, host)) = parts.more().await {
            if shown.replace(host) != Some(host) {
                let name = self.context.book.pool.host(host).to_string();
                self.watch.set_host(&name);
            }
            loop {
                let before = self.stream.taken();
                let taken = self.stream.take(buf);
                let more = self.stream.taken().saturating_sub(before);
                self.watch.advance(more);
                match taken {
                    Ok(Taken::Nothing) => break,
                    Ok(Taken::Pass(piece)) => {
                        let written = self.sink.write(piece).await;
                        written.map_err(|source| self.cannot_write(source))?;
                    }
                    Ok(Taken::Complete) => {
                        let Ok(held) = self.stream.verify() else {
                            parts.report_wrong_content();
                            break 'nar;
                        };
                        for piece in held {
                            let written = self.sink.write(piece).await;
                            written.map_err(|source| self.cannot_write(source))?;
                        }
                        return Ok(Parts::Complete);
                    }
                    Err(_) => {
                        parts.report_wrong_content();
                        break 'nar;
                    }
                }
            }
        }
        self.watch.lose(self.stream.roll_back());
        Ok(Parts::Broke)
    }

    /// Who is to be asked next for all of the rest, and after which pause.
    fn next_host(&mut self) -> Option<(HostId, Duration)> {
        let (info, book, holders) = (self.info(), &self.context.book, self.holders());
        // Without a hash nothing says that another host has the same.
        let others = book.pool.hosts().filter(|_| info.nar_hash.is_some());
        let mut all = holders.clone();
        all.extend(others.filter(|host| !holders.contains(host)));
        // Better to ask a host that may lack it than to wait for one that was found dead.
        let left = info.nar_size.saturating_sub(self.stream.taken());
        book.rates.put_late_ones_last(&mut all, left);
        let mut hosts = book.pool.in_order_of_health(&all);
        hosts.retain(|host| {
            let Some(fault) = book.known_wrong_content(*host, &info.path) else {
                return true;
            };
            if self.tries.is_new(*host) {
                self.faults.push(fault);
            }
            self.tries.ended(*host, AttemptOutcome::Unfit);
            false
        });
        self.tries.next(&hosts, self.stream.taken() > 0)
    }

    /// Brings the rest from one host, if it can; then the size of the NAR.
    async fn bring_from_host(&mut self, host: HostId) -> Result<Option<u64>, TransferError> {
        let (info, book) = (self.info(), &self.context.book);
        self.watch.set_host(&book.pool.host(host).to_string());
        let holders = self.holders();
        let attempt = Attempt {
            book,
            info,
            host,
            watch: self.watch,
            chunks: &self.context.chunks,
            holders: &holders,
            patience: PATIENCE * (1 << self.gave_way.min(PATIENCE_DOUBLINGS)),
        };
        let (known, from) = (holders.contains(&host), self.stream.taken());
        let stopped = attempt.run(known, &mut self.stream, self.sink).await;
        let (fault, connected) = match stopped {
            Ok(size) => return Ok(Some(size)),
            Err(Stopped::Sink(source)) => return Err(self.cannot_write(source)),
            Err(Stopped::GaveWay) => {
                self.watch.lose(self.stream.roll_back());
                self.gave_way += 1;
                self.fruitless_parts = 0;
                return Ok(None);
            }
            Err(Stopped::NoConnection(fault)) => (fault, false),
            Err(Stopped::Fault(fault)) => (fault, true),
        };
        self.watch.lose(self.stream.roll_back());
        book.record_failure(host, &info.path, &fault).await;
        let new_bytes = self.stream.taken() > from;
        let ended = match &fault {
            HostFault::Remote(_) if new_bytes => AttemptOutcome::WithNewBytes,
            HostFault::Remote(error) if connected && error.is_silence() => AttemptOutcome::Silent,
            HostFault::Remote(_) if connected => AttemptOutcome::Fruitless,
            HostFault::Remote(_) => AttemptOutcome::NoConnection,
            _ => AttemptOutcome::Unfit,
        };
        self.tries.ended(host, ended);
        if new_bytes {
            self.fruitless_parts = 0;
        }
        self.faults.push(fault);
        Ok(None)
    }
}
