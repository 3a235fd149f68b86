//! One path: choose a host, stream its NAR, verify it, go on elsewhere when that fails.

mod error;
pub mod progress;
mod stream;
pub mod unpack;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{Failed, HostFault, TransferError};

use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, Lease, Pool};
use progress::{Outcome, Progress, TransferInfo, TransferProgress};
use stream::{Stream, Taken};

/// How often each host is tried for one path: a broken connection is worth a second one.
const ROUNDS: usize = 2;

/// How many paths that came wrongly are remembered.
const SPOILT: usize = 10_000;

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
    pool: Arc<Pool>,
    progress: Arc<dyn Progress>,
    /// What a host sent wrongly once; it is not asked for it again. Held for a look-up only.
    spoilt: Mutex<HashSet<(HostId, StorePath)>>,
}

impl Transfers {
    /// Transfers from the hosts of `pool`, shown by `progress`.
    #[must_use]
    pub fn new(pool: Arc<Pool>, progress: Arc<dyn Progress>) -> Self {
        Self {
            pool,
            progress,
            spoilt: Mutex::default(),
        }
    }

    /// Brings the NAR that `info` promises into `sink`: from `holders` in their order, then from
    /// any other host that turns out to have the same NAR. A transfer that breaks goes on from the
    /// same byte on another connection. The end is passed on only after hash and size proved
    /// right. Gives the number of bytes.
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
        let first = holders
            .first()
            .map(|host| self.pool.host(*host).to_string());
        let watch = self.progress.start(&TransferInfo {
            path: info.path.clone(),
            host: first.unwrap_or_default(),
            total: info.nar_size,
        });
        let mut stream = Stream::new(info);
        let result = self
            .try_hosts(info, holders, &mut stream, sink, &*watch)
            .await;
        watch.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) => Outcome::Failed,
        });
        result.map_err(|error| Failed {
            rest: stream.completion(&error.to_string()),
            error,
        })
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
        let others = self.pool.hosts().filter(|_| info.nar_hash.is_some());
        let mut all = holders.to_vec();
        all.extend(others.filter(|host| !holders.contains(host)));
        // Better to ask a host that may lack it than to wait for one that was found dead.
        let mut hosts = self.pool.in_order_of_health(&all);
        let mut faults = Vec::new();
        hosts.retain(|host| {
            let spoilt = self.is_spoilt(*host, info);
            if spoilt {
                let (host, path) = (self.pool.host(*host).to_string(), info.path.clone());
                faults.push(HostFault::SpoiltBefore { host, path });
            }
            !spoilt
        });
        for _ in 0..ROUNDS {
            let mut again = Vec::new();
            for host in std::mem::take(&mut hosts) {
                watch.set_host(&self.pool.host(host).to_string());
                let attempt = Attempt {
                    pool: &self.pool,
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
                        self.take_note(host, info, &fault).await;
                        if matches!(fault, HostFault::Remote(_)) {
                            again.push(host);
                        }
                        faults.push(fault);
                    }
                }
            }
            hosts = again;
        }
        Err(TransferError::nobody(info.path.clone(), faults))
    }

    fn is_spoilt(&self, host: HostId, info: &PathInfo) -> bool {
        let spoilt = self.spoilt.lock().unwrap_or_else(PoisonError::into_inner);
        spoilt.contains(&(host, info.path.clone()))
    }

    async fn take_note(&self, host: HostId, info: &PathInfo, fault: &HostFault) {
        match fault {
            HostFault::Remote(error) => self.pool.failed(host, error).await,
            HostFault::Lacks { .. } | HostFault::SpoiltBefore { .. } => log::debug!("{fault}"),
            HostFault::Differs { .. } => self.pool.notify(fault),
            HostFault::Malformed { .. } | HostFault::Mismatch { .. } => {
                self.pool.notify(fault);
                let mut spoilt = self.spoilt.lock().unwrap_or_else(PoisonError::into_inner);
                if spoilt.len() >= SPOILT {
                    spoilt.clear();
                }
                spoilt.insert((host, info.path.clone()));
            }
        }
    }
}

/// Why an attempt with one host ended.
enum Stopped {
    /// The host is to blame.
    Fault(HostFault),
    /// Nobody wants the rest.
    Sink(io::Error),
}

impl<E: Into<HostFault>> From<E> for Stopped {
    fn from(fault: E) -> Self {
        Self::Fault(fault.into())
    }
}

/// One try to get (the rest of) a NAR from one host.
struct Attempt<'a> {
    pool: &'a Pool,
    info: &'a PathInfo,
    host: HostId,
    watch: &'a dyn TransferProgress,
}

impl Attempt<'_> {
    async fn run(
        &self,
        known: bool,
        stream: &mut Stream,
        sink: &mut dyn NarSink,
    ) -> Result<u64, Stopped> {
        loop {
            let mut lease = self.pool.lease(self.host).await?;
            let begun = stream.taken();
            match self.with(&mut lease, known, stream, sink).await {
                // A used connection may have died while it lay idle.
                Err(Stopped::Fault(HostFault::Remote(error)))
                    if lease.is_reused() && stream.taken() == begun =>
                {
                    log::debug!("{error}; trying once more");
                }
                result => return result,
            }
        }
    }

    async fn with(
        &self,
        lease: &mut Lease,
        known: bool,
        stream: &mut Stream,
        sink: &mut dyn NarSink,
    ) -> Result<u64, Stopped> {
        if !known {
            self.confirm(lease).await?;
        }
        lease.start_dump(&self.info.path);
        self.skip(lease, stream).await?;
        loop {
            if !lease.buffer().is_empty() {
                let before = stream.taken();
                let taken = stream.take(lease.buffer()).map_err(|source| {
                    let (host, path) = self.names();
                    HostFault::Malformed { host, path, source }
                })?;
                self.watch.advance(stream.taken() - before);
                match taken {
                    Taken::Nothing => {}
                    Taken::Pass(bytes) => sink.write(bytes).await.map_err(Stopped::Sink)?,
                    Taken::Complete => break,
                }
            }
            self.more(lease).await?;
        }
        lease.end_dump();
        let held = stream.verify().map_err(|(expected, got)| {
            let (host, path) = self.names();
            HostFault::Mismatch {
                host,
                path,
                expected,
                got,
            }
        })?;
        for bytes in held {
            sink.write(bytes).await.map_err(Stopped::Sink)?;
        }
        Ok(stream.taken())
    }

    /// Makes sure that the host has the very same NAR.
    async fn confirm(&self, lease: &mut Lease) -> Result<(), Stopped> {
        let path = std::slice::from_ref(&self.info.path);
        let infos = lease.query_path_infos(path).await.map_err(Arc::new)?;
        match infos.first() {
            Some(info) if info.nar_hash == self.info.nar_hash => Ok(()),
            _ => {
                let (host, path) = self.names();
                Err(HostFault::Lacks { host, path }.into())
            }
        }
    }

    /// Reads over what has been passed on already, and makes sure that it is the same here.
    async fn skip(&self, lease: &mut Lease, stream: &Stream) -> Result<(), Stopped> {
        let mut prefix = stream.prefix();
        while prefix.is_missing_some() {
            if lease.buffer().is_empty() {
                self.more(lease).await?;
            }
            prefix.read(lease.buffer());
        }
        if prefix.is_same() {
            return Ok(());
        }
        let (host, path) = self.names();
        Err(HostFault::Differs { host, path }.into())
    }

    /// Waits for more bytes of the NAR.
    async fn more(&self, lease: &mut Lease) -> Result<(), Stopped> {
        lease.nar_bytes().await.map_err(|error| {
            // nix-store ends when it is asked for a path that it has not (any more).
            let said = error.stderr();
            let gone = said.contains("No such file") && said.contains(self.info.path.base_name());
            if gone || said.contains("is not valid") {
                let (host, path) = self.names();
                HostFault::Lacks { host, path }
            } else {
                HostFault::Remote(Arc::new(error))
            }
            .into()
        })
    }

    fn names(&self) -> (String, StorePath) {
        let host = self.pool.host(self.host).to_string();
        (host, self.info.path.clone())
    }
}
