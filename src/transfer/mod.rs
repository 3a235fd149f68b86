//! One path: choose a host, stream its NAR, verify it, go on elsewhere when that fails.

mod ahead;
mod attempt;
mod book;
mod content;
mod error;
mod piece;
pub mod progress;
mod rates;
mod stream;
mod stripe;
pub mod unpack;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

pub use book::Whereabouts;
pub use error::{Failed, HostFault, TransferError};
pub use piece::{Mark, Piece, Resume};

use crate::model::PathInfo;
use crate::pool::{HostId, Pool};
use ahead::{Ahead, Common, Next, Readahead};
use attempt::{Attempt, Stopped};
use book::Book;
use progress::{Outcome, Progress, TransferInfo, TransferProgress};
use stream::{Stream, Taken};
use stripe::{InParts, Striper, URGENT};

/// How often each host is tried for one path: a broken connection is worth a second one.
const ROUNDS: usize = 2;

/// How much of the reason stands in a NAR that takes the place of one that nobody could deliver, in
/// characters.
const REASON: usize = 2000;

/// How long a NAR that is read ahead may not move before another host is asked for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a worker may take to ask for what is waited for. It does so at once, unless all are busy
/// with larger ones.
const SOON: Duration = Duration::from_millis(50);

/// What came of a NAR that was read ahead.
enum Passed {
    /// It came whole.
    All,
    /// Nothing, since nobody asked for it.
    Nothing,
    /// This is how far it got; that host could not bring the rest.
    Part(Box<Stream>, HostId),
}

/// Takes a NAR, piece by piece.
#[async_trait]
pub trait NarSink: Send {
    /// Takes the next piece. Returns when there is room for more.
    ///
    /// # Errors
    /// When nothing more can be taken; the transfer then ends.
    async fn write(&mut self, piece: Piece) -> io::Result<()>;
}

/// Fetches NARs from the hosts of a pool.
pub struct Transfers {
    common: Common,
}

/// Somebody who asks about paths and then fetches them, on one connection or on several. What is
/// read ahead for a caller is dropped with it.
pub struct Caller {
    ahead: Readahead,
}

impl Caller {
    /// The caller has asked what this path is and got this answer. From its first
    /// [`fetch`](Transfers::fetch) on, such paths are read ahead.
    pub fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        self.ahead.expect(info, holders);
    }

    /// The caller comes back for something else: what it has fetched it may fetch again.
    pub fn begin_anew(&self) {
        self.ahead.begin_anew();
    }

    /// Drops what was read ahead, when the caller has not fetched anything for a minute. To be
    /// called now and then.
    pub fn rest_if_idle(&self) {
        self.ahead.rest_if_idle();
    }
}

/// What is to be fetched, and for whom.
pub struct Wish<'a> {
    /// The path, and the NAR that was promised.
    pub info: &'a PathInfo,
    /// Who is known to have it, the best host first.
    pub holders: &'a [HostId],
    /// For whom.
    pub caller: &'a Caller,
    /// Where another transfer of the same NAR broke off: only what follows is passed on.
    pub resume: Option<Resume>,
    /// Shows it.
    pub progress: &'a dyn Progress,
}

impl Transfers {
    /// Transfers from the hosts of `pool`. At most `memory` bytes are read ahead, for all callers
    /// together. `whereabouts` tells who has what, and is told of what a host turned out not to
    /// have, or sent wrongly.
    #[must_use]
    pub fn new(pool: Arc<Pool>, memory: u64, whereabouts: Box<dyn Whereabouts>) -> Self {
        let book = Arc::new(Book::new(pool, whereabouts));
        let striper = Arc::new(Striper::new(book.clone()));
        Self {
            common: Common::new(book, striper, memory),
        }
    }

    /// A new caller.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            ahead: Readahead::new(&self.common),
        }
    }

    /// How many bytes of NARs are held that were read ahead, and how many may be.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        (self.common.memory.used(), self.common.memory.total())
    }

    /// How fast a host has been of late, in bytes a second; `None` as long as nobody knows.
    #[must_use]
    pub fn rate(&self, host: HostId) -> Option<u64> {
        self.common.book.rates.of(host)
    }

    /// Brings the NAR of a wish into `sink`: what has been read ahead, else from its holders in
    /// their order, then from any other host that turns out to have the same NAR. A transfer that
    /// breaks goes on from the same byte on another connection. The end is passed on only after hash
    /// and size proved right. Gives the number of bytes.
    ///
    /// # Errors
    /// When no host can deliver, or `sink` takes no more. The failure tells how to complete what
    /// `sink` has got to a well-formed archive (with the wrong content).
    pub async fn fetch(&self, wish: Wish<'_>, sink: &mut dyn NarSink) -> Result<u64, Failed> {
        let (info, book) = (wish.info, &self.common.book);
        let first = wish.holders.first();
        let first = first.map(|host| book.pool.host(*host).to_string());
        let watch = wish.progress.start(&TransferInfo {
            path: info.path.clone(),
            host: first.unwrap_or_default(),
            total: info.nar_size,
        });
        let mut stream = match wish.resume.clone() {
            Some(resume) => Stream::resumed(info, resume),
            None => Stream::new(info),
        };
        let result = self.bring(&wish, &mut stream, sink, &*watch).await;
        watch.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) => Outcome::Failed,
        });
        result.map_err(|error| {
            let reason: String = error.to_string().chars().take(REASON).collect();
            let rest = stream.completion(&reason);
            Failed { error, rest }
        })
    }

    async fn bring(
        &self,
        wish: &Wish<'_>,
        stream: &mut Stream,
        sink: &mut dyn NarSink,
        watch: &dyn TransferProgress,
    ) -> Result<u64, TransferError> {
        let (info, book) = (wish.info, &self.common.book);
        let mut hosts = book.holders(&info.path, wish.holders);
        if wish.resume.is_none()
            && let Some(ahead) = wish.caller.ahead.fetch(info, &hosts)
        {
            let failed = |source| TransferError::Sink {
                path: info.path.clone(),
                source,
            };
            let passed = self.pass_on(ahead, wish.caller, sink, watch).await;
            match passed.map_err(failed)? {
                Passed::All => return Ok(info.nar_size),
                Passed::Nothing => {}
                Passed::Part(so_far, host) => {
                    *stream = *so_far;
                    // The one that could not bring it comes last.
                    hosts.sort_by_key(|other| *other == host);
                }
            }
        }
        let urgent = Arc::new(AtomicU64::new(URGENT));
        let striper = &self.common.striper;
        if let Some(parts) = striper.start(info, &hosts, urgent)
            && self.assemble(parts, info, stream, sink, watch).await?
        {
            return Ok(info.nar_size);
        }
        self.try_hosts(info, &hosts, stream, sink, watch).await
    }

    /// Passes on what comes in parts. Whether all has come, and was right; else `stream` tells from
    /// where to go on.
    async fn assemble(
        &self,
        mut parts: InParts,
        info: &PathInfo,
        stream: &mut Stream,
        sink: &mut dyn NarSink,
        watch: &dyn TransferProgress,
    ) -> Result<bool, TransferError> {
        let failed = |source| TransferError::Sink {
            path: info.path.clone(),
            source,
        };
        let mut shown = None;
        'nar: while let Some((buf, host)) = parts.more().await {
            if shown.replace(host) != Some(host) {
                watch.set_host(&self.common.book.pool.host(host).to_string());
            }
            loop {
                let before = stream.taken();
                let taken = stream.take(buf);
                watch.advance(stream.taken().saturating_sub(before));
                match taken {
                    Ok(Taken::Nothing) => break,
                    Ok(Taken::Pass(piece)) => sink.write(piece).await.map_err(failed)?,
                    Ok(Taken::Complete) => {
                        let Ok(held) = stream.verify() else {
                            parts.came_wrongly();
                            break 'nar;
                        };
                        for piece in held {
                            sink.write(piece).await.map_err(failed)?;
                        }
                        return Ok(true);
                    }
                    Err(_) => {
                        parts.came_wrongly();
                        break 'nar;
                    }
                }
            }
        }
        watch.lose(stream.roll_back());
        Ok(false)
    }

    /// Passes on what is read ahead.
    async fn pass_on(
        &self,
        ahead: Ahead,
        caller: &Caller,
        sink: &mut dyn NarSink,
        watch: &dyn TransferProgress,
    ) -> io::Result<Passed> {
        let (reader, mut waits) = match ahead {
            Ahead::Asked(reader) => (reader, false),
            Ahead::Waiting(reader) => (reader, true),
        };
        let (job, book) = (&reader.job, &self.common.book);
        let host = job.host();
        let mut shown = host;
        watch.set_host(&book.pool.host(host).to_string());
        let holders = book.holders(&job.info.path, &job.holders);
        let mut others = holders.into_iter().filter(|other| *other != host);
        let mut patience = match others.any(|host| book.pool.is_well(host)) {
            true => PATIENCE,
            false => Duration::MAX,
        };
        loop {
            let limit = if waits { SOON } else { patience };
            match timeout(limit, reader.next()).await {
                Ok(Next::Piece(piece, host)) => {
                    waits = false;
                    if std::mem::replace(&mut shown, host) != host {
                        watch.set_host(&book.pool.host(host).to_string());
                    }
                    watch.advance(piece.bytes.len() as u64);
                    sink.write(piece).await?;
                }
                Ok(Next::Complete) => return Ok(Passed::All),
                Ok(Next::Broken(stream)) => return Ok(Passed::Part(stream, job.host())),
                Err(_) if waits => {
                    waits = false;
                    if caller.ahead.withdraw(&reader) {
                        return Ok(Passed::Nothing);
                    }
                }
                Err(_) => {
                    reader.abandon();
                    patience = Duration::MAX;
                }
            }
        }
    }

    async fn try_hosts(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        stream: &mut Stream,
        sink: &mut dyn NarSink,
        watch: &dyn TransferProgress,
    ) -> Result<u64, TransferError> {
        let book = &self.common.book;
        // Without a hash nothing says that another host has the same.
        let others = book.pool.hosts().filter(|_| info.nar_hash.is_some());
        let mut all = holders.to_vec();
        all.extend(others.filter(|host| !holders.contains(host)));
        // Better to ask a host that may lack it than to wait for one that was found dead.
        let left = info.nar_size.saturating_sub(stream.taken());
        book.rates.put_late_ones_last(&mut all, left);
        let mut hosts = book.pool.in_order_of_health(&all);
        let mut faults = Vec::new();
        hosts.retain(|host| {
            let spoilt = book.spoilt_before(*host, &info.path);
            let may_be_asked = spoilt.is_none();
            faults.extend(spoilt);
            may_be_asked
        });
        for _ in 0..ROUNDS {
            let mut again = Vec::new();
            for host in std::mem::take(&mut hosts) {
                watch.set_host(&book.pool.host(host).to_string());
                let attempt = Attempt {
                    book,
                    info,
                    host,
                    watch,
                };
                match attempt.run(holders.contains(&host), stream, sink).await {
                    Ok(size) => return Ok(size),
                    Err(Stopped::Sink(source)) => {
                        let path = info.path.clone();
                        return Err(TransferError::Sink { path, source });
                    }
                    Err(Stopped::Fault(fault)) => {
                        watch.lose(stream.roll_back());
                        book.take_note(host, &info.path, &fault).await;
                        if matches!(fault, HostFault::Remote(_)) {
                            again.push(host);
                        }
                        faults.push(fault);
                        if let Some(parts) =
                            self.common.striper.go_on(info, holders, stream.taken())
                            && self.assemble(parts, info, stream, sink, watch).await?
                        {
                            return Ok(info.nar_size);
                        }
                    }
                }
            }
            hosts = again;
        }
        Err(TransferError::nobody(info.path.clone(), faults))
    }
}
