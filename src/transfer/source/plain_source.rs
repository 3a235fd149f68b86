//! The dump of one host, straight through.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;

use super::read_coalescing::ReadCoalescing;
use super::{Source, SourceProgress, Step, Stop};
use crate::model::PathInfo;
use crate::pool::{HostId, Lease};
use crate::transfer::chunks::{ChunkedDownloads, ComparedDump};
use crate::transfer::error::{HostFault, PathFault};
use crate::transfer::hosts::{HostBookkeeping, OutstandingBytes, Way};
use crate::transfer::progress::TransferProgress;
use crate::transfer::readahead::SMALL_NAR;
use crate::transfer::verify::{Taken, Verifier};

/// What is to be dumped, and by whom.
pub(in crate::transfer) struct PlainDump<'a> {
    pub(in crate::transfer) bookkeeping: &'a HostBookkeeping,
    pub(in crate::transfer) info: &'a PathInfo,
    pub(in crate::transfer) host: HostId,
    /// Who may compare what comes.
    pub(in crate::transfer) chunks: &'a ChunkedDownloads,
    pub(in crate::transfer) holders: Vec<HostId>,
    /// How long a caller may take nothing before others get the channel, if they need it.
    pub(in crate::transfer) displace_after: Duration,
}

/// Brings (the rest of) a NAR as one host dumps it.
///
/// Nothing can be requested but the whole dump, so what was passed on before is read over and compared by its hash.
pub(in crate::transfer) struct PlainSource<'a> {
    dump: PlainDump<'a>,
    progress: SourceProgress<'a>,
    // Dropped before the lease.
    stream: Option<DumpStream>,
    lease: Option<Lease>,
    /// The offset at which the lease was taken.
    leased_at: u64,
}

/// A dump that has begun to come, and is past what was passed on before.
struct DumpStream {
    outstanding: OutstandingBytes,
    coalescing: ReadCoalescing,
    /// Holds back what comes until another host has confirmed it, where one can.
    compared: Option<ComparedDump>,
    /// What was confirmed and is not verified yet.
    confirmed: BytesMut,
}

impl<'a> PlainSource<'a> {
    pub(in crate::transfer) fn new(
        dump: PlainDump<'a>,
        progress: &'a dyn TransferProgress,
    ) -> Self {
        let mut progress = SourceProgress::new(progress, &dump.bookkeeping.pool);
        progress.set_host(dump.host);
        Self {
            dump,
            progress,
            stream: None,
            lease: None,
            leased_at: 0,
        }
    }

    /// The next step on the connection that is leased.
    async fn step(
        &mut self,
        lease: &mut Lease,
        verifier: &mut Verifier,
    ) -> Result<Step, HostFault> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.dump.start(lease, verifier).await?,
        };
        loop {
            let buf = match stream.compared {
                None => lease.buffer(),
                Some(_) => &mut stream.confirmed,
            };
            let before = verifier.offset();
            let taken = match buf.is_empty() {
                true => Taken::NeedMore,
                false => {
                    let taken = verifier.take(buf);
                    taken.map_err(|fault| self.dump.blame(fault))?
                }
            };
            let bytes = verifier.offset() - before;
            self.progress.advance(bytes);
            stream.outstanding.on_received(bytes);
            let bookkeeping = self.dump.bookkeeping;
            bookkeeping
                .traffic
                .record(self.dump.host, Way::Raw, bytes, bytes);
            match taken {
                Taken::NeedMore => self.dump.refill(lease, &mut stream, verifier).await?,
                Taken::Piece(piece) => {
                    self.stream = Some(stream);
                    return Ok(Step::Write(piece));
                }
                Taken::Complete => {
                    lease.end_dump();
                    let pieces = verifier.verify();
                    let pieces = pieces.map_err(|fault| self.dump.blame(fault))?;
                    return Ok(Step::Complete(pieces));
                }
            }
        }
    }
}

#[async_trait]
impl Source for PlainSource<'_> {
    async fn next(&mut self, verifier: &mut Verifier) -> Result<Step, Stop> {
        let host = self.dump.host;
        loop {
            let mut lease = match self.lease.take() {
                Some(lease) => lease,
                None => {
                    self.leased_at = verifier.offset();
                    self.dump.lease().await.map_err(|fault| Stop::Fault {
                        host,
                        fault: Box::new(fault),
                        connected: false,
                    })?
                }
            };
            match self.step(&mut lease, verifier).await {
                Ok(step) => {
                    // Others may have the connection of a complete dump: the caller may take its time.
                    self.lease = matches!(step, Step::Write(_)).then_some(lease);
                    return Ok(step);
                }
                // A used connection may have died while it lay idle.
                Err(HostFault::Remote(error))
                    if lease.is_reused() && verifier.offset() == self.leased_at =>
                {
                    log::debug!("{error}; trying once more");
                }
                Err(fault) => {
                    return Err(Stop::Fault {
                        host,
                        fault: Box::new(fault),
                        connected: true,
                    });
                }
            }
        }
    }

    async fn until_needed_elsewhere(&mut self) {
        match &mut self.lease {
            Some(lease) => lease.until_needed(self.dump.displace_after).await,
            None => std::future::pending().await,
        }
    }

    fn release(&mut self) {
        self.lease = None;
    }
}

impl PlainDump<'_> {
    /// Whether the host is known to have the path.
    fn is_holder(&self) -> bool {
        self.holders.contains(&self.host)
    }

    /// A connection, on which the dump of a holder is requested already.
    async fn lease(&self) -> Result<Lease, HostFault> {
        let pool = &self.bookkeeping.pool;
        let lease = match self.is_holder() {
            true => pool.lease_for_dump(self.host, &self.info.path).await,
            false => pool.lease(self.host).await,
        };
        Ok(lease?)
    }

    /// Gets the dump to the offset of the verifier.
    async fn start(&self, lease: &mut Lease, verifier: &Verifier) -> Result<DumpStream, HostFault> {
        if !self.is_holder() {
            self.confirm_same_nar(lease).await?;
            lease.start_dump(&self.info.path);
        }
        let (throughput, size) = (&self.bookkeeping.throughput, self.info.nar_size);
        let outstanding = match size > SMALL_NAR {
            true => throughput.request_stream(self.host, size),
            false => throughput.request(self.host, size),
        };
        self.skip_prefix(lease, verifier).await?;
        let compared = self
            .chunks
            .compare(self.info, &self.holders, self.host, verifier.decoder());
        Ok(DumpStream {
            outstanding,
            coalescing: ReadCoalescing::default(),
            compared,
            confirmed: BytesMut::new(),
        })
    }

    /// Waits until there is more to verify.
    async fn refill(
        &self,
        lease: &mut Lease,
        stream: &mut DumpStream,
        verifier: &Verifier,
    ) -> Result<(), HostFault> {
        loop {
            if let Some(compared) = &mut stream.compared {
                let taken = compared.take(lease.buffer());
                taken.map_err(|error| self.blame(error.into()))?;
                if let Some(size) = compared.ended_early() {
                    return Err(self.too_short(size));
                }
                if let Some(chunk) = compared.confirmed() {
                    stream.confirmed.extend_from_slice(&chunk);
                    return Ok(());
                }
                if compared.is_wrong() {
                    return Err(self.blame(PathFault::Disproved));
                }
                if compared.is_full() {
                    compared.changed().await;
                    continue;
                }
            }
            let remaining = self.info.nar_size.saturating_sub(verifier.offset());
            stream.coalescing.pause(remaining).await;
            self.more(lease).await?;
            stream.coalescing.on_read(lease.buffer().len());
            if stream.compared.is_none() {
                return Ok(());
            }
        }
    }

    /// Makes sure that the host has the very same NAR.
    async fn confirm_same_nar(&self, lease: &mut Lease) -> Result<(), HostFault> {
        let path = std::slice::from_ref(&self.info.path);
        let infos = lease.query_path_infos(path).await.map_err(Arc::new)?;
        match infos.first() {
            Some(info) if info.nar_hash == self.info.nar_hash => Ok(()),
            _ => Err(self.blame(PathFault::Lacks)),
        }
    }

    /// Reads over what has been passed on already, and makes sure that it is the same here.
    async fn skip_prefix(&self, lease: &mut Lease, verifier: &Verifier) -> Result<(), HostFault> {
        let mut prefix = verifier.prefix();
        while prefix.is_missing_some() {
            if lease.buffer().is_empty() {
                self.more(lease).await?;
            }
            prefix.read(lease.buffer());
        }
        match prefix.is_same() {
            true => Ok(()),
            false => Err(self.blame(PathFault::Differs)),
        }
    }

    /// Waits for more bytes of the NAR.
    async fn more(&self, lease: &mut Lease) -> Result<(), HostFault> {
        let more = lease.nar_bytes().await;
        more.map_err(|error| HostFault::of_dump(error, self.host_name(), self.info.path.clone()))
    }

    /// The archive has ended after so many bytes.
    fn too_short(&self, size: u64) -> HostFault {
        let expected = format!("{} bytes", self.info.nar_size);
        let got = format!("an archive of {size} bytes");
        self.blame(PathFault::Mismatch(expected, got))
    }

    /// A fault of this host with this path.
    fn blame(&self, fault: PathFault) -> HostFault {
        HostFault::Path {
            host: self.host_name(),
            path: self.info.path.clone(),
            fault,
        }
    }

    fn host_name(&self) -> String {
        self.bookkeeping.pool.host(self.host).to_string()
    }
}
