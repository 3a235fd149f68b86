//! One path: choose a host, stream its NAR, verify it, go on elsewhere when that fails.

mod ahead;
mod attempt;
mod book;
mod content;
mod error;
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
use bytes::Bytes;
use tokio::time::timeout;

pub use book::Whereabouts;
pub use error::{Failed, HostFault, TransferError};

use crate::model::PathInfo;
use crate::pool::{HostId, Pool};
use ahead::{Job, Next, Readahead};
use attempt::{Attempt, Stopped};
use book::Book;
use progress::{Outcome, Progress, TransferInfo, TransferProgress};
use stream::{Stream, Taken};
use stripe::{InParts, Striper, URGENT};

/// How often each host is tried for one path: a broken connection is worth a second one.
const ROUNDS: usize = 2;

/// How long a NAR that is read ahead may not move before another host is asked for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes a NAR, piece by piece.
#[async_trait]
pub trait NarSink: Send {
    /// Takes the next bytes. Returns when there is room for more.
    ///
    /// # Errors
    /// When nothing more can be taken; the transfer then ends.
    async fn write(&mut self, bytes: Bytes) -> io::Result<()>;
}

/// Fetches NARs from the hosts of a pool.
pub struct Transfers {
    book: Arc<Book>,
    progress: Arc<dyn Progress>,
    striper: Arc<Striper>,
    ahead: Readahead,
}

impl Transfers {
    /// Transfers from the hosts of `pool`, shown by `progress`. At most `memory` bytes are read
    /// ahead. `on_disappointment` is told of what a host turned out not to have, or sent wrongly.
    #[must_use]
    pub fn new(
        pool: Arc<Pool>,
        progress: Arc<dyn Progress>,
        memory: u64,
        whereabouts: Box<dyn Whereabouts>,
    ) -> Self {
        let book = Arc::new(Book::new(pool, whereabouts));
        let striper = Arc::new(Striper::new(book.clone()));
        Self {
            ahead: Readahead::new(book.clone(), striper.clone(), memory),
            striper,
            book,
            progress,
        }
    }

    /// The caller has asked what this path is and got this answer. From its first
    /// [`fetch`](Self::fetch) on, such paths are read ahead.
    pub fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        self.ahead.expect(info, holders);
    }

    /// Brings the NAR that `info` promises into `sink`: what has been read ahead, else from
    /// `holders` in their order, then from any other host that turns out to have the same NAR. A
    /// transfer that breaks goes on from the same byte on another connection. The end is passed on
    /// only after hash and size proved right. Gives the number of bytes.
    ///
    /// # Errors
    /// When no host can deliver, or `sink` takes no more. The failure tells how to complete what
    /// `sink` has got to a well-formed archive (with the wrong content).
    pub async fn fetch(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        sink: &mut dyn NarSink,
    ) -> Result<u64, Failed> {
        let first = holders.first();
        let first = first.map(|host| self.book.pool.host(*host).to_string());
        let watch = self.progress.start(&TransferInfo {
            path: info.path.clone(),
            host: first.unwrap_or_default(),
            total: info.nar_size,
        });
        let mut stream = Stream::new(info);
        let result = self.bring(info, holders, &mut stream, sink, &*watch).await;
        watch.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) => Outcome::Failed,
        });
        result.map_err(|error| Failed {
            rest: stream.completion(&error.to_string()),
            error,
        })
    }

    async fn bring(
        &self,
        info: &PathInfo,
        holders: &[HostId],
        stream: &mut Stream,
        sink: &mut dyn NarSink,
        watch: &dyn TransferProgress,
    ) -> Result<u64, TransferError> {
        let mut hosts = self.book.holders(&info.path, holders);
        if let Some(job) = self.ahead.fetch(info) {
            let host = job.host();
            watch.set_host(&self.book.pool.host(host).to_string());
            match self.pass_on(&job, sink, watch).await {
                Ok(None) => return Ok(info.nar_size),
                Ok(Some(so_far)) => *stream = so_far,
                Err(source) => {
                    let path = info.path.clone();
                    return Err(TransferError::Sink { path, source });
                }
            }
            // The one that could not bring it comes last.
            hosts.sort_by_key(|other| *other == host);
        }
        let urgent = Arc::new(AtomicU64::new(URGENT));
        if let Some(parts) = self.striper.start(info, &hosts, urgent)
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
        while let Some(buf) = parts.more().await {
            let before = stream.taken();
            let taken = stream.take(buf);
            watch.advance(stream.taken().saturating_sub(before));
            match taken {
                Ok(Taken::Nothing) => {}
                Ok(Taken::Pass(bytes)) => sink.write(bytes).await.map_err(failed)?,
                Ok(Taken::Complete) => {
                    let Ok(held) = stream.verify() else {
                        parts.came_wrongly();
                        break;
                    };
                    for bytes in held {
                        sink.write(bytes).await.map_err(failed)?;
                    }
                    return Ok(true);
                }
                Err(_) => {
                    parts.came_wrongly();
                    break;
                }
            }
        }
        stream.roll_back();
        Ok(false)
    }

    /// Passes on what is read ahead. Gives the state from which to go on, when not all came.
    async fn pass_on(
        &self,
        job: &Job,
        sink: &mut dyn NarSink,
        watch: &dyn TransferProgress,
    ) -> io::Result<Option<Stream>> {
        let holders = self.book.holders(&job.info.path, &job.holders);
        let mut others = holders.into_iter().filter(|host| *host != job.host());
        let mut patience = match others.any(|host| self.book.pool.is_well(host)) {
            true => PATIENCE,
            false => Duration::MAX,
        };
        loop {
            match timeout(patience, job.next()).await {
                Ok(Next::Bytes(bytes)) => {
                    watch.advance(bytes.len() as u64);
                    sink.write(bytes).await?;
                }
                Ok(Next::Complete) => return Ok(None),
                Ok(Next::Broken(stream)) => return Ok(Some(*stream)),
                Err(_) => {
                    job.abandon();
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
        // Without a hash nothing says that another host has the same.
        let others = self.book.pool.hosts().filter(|_| info.nar_hash.is_some());
        let mut all = holders.to_vec();
        all.extend(others.filter(|host| !holders.contains(host)));
        // Better to ask a host that may lack it than to wait for one that was found dead.
        let left = info.nar_size.saturating_sub(stream.taken());
        self.book.rates.put_late_ones_last(&mut all, left);
        let mut hosts = self.book.pool.in_order_of_health(&all);
        let mut faults = Vec::new();
        hosts.retain(|host| {
            let spoilt = self.book.is_spoilt(*host, &info.path);
            if spoilt {
                let (host, path) = (self.book.pool.host(*host).to_string(), info.path.clone());
                faults.push(HostFault::SpoiltBefore { host, path });
            }
            !spoilt
        });
        for _ in 0..ROUNDS {
            let mut again = Vec::new();
            for host in std::mem::take(&mut hosts) {
                watch.set_host(&self.book.pool.host(host).to_string());
                let attempt = Attempt {
                    book: &self.book,
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
                        stream.roll_back();
                        self.book.take_note(host, &info.path, &fault).await;
                        if matches!(fault, HostFault::Remote(_)) {
                            again.push(host);
                        }
                        faults.push(fault);
                        if let Some(parts) = self.striper.go_on(info, holders, stream.taken())
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
