//! One path from one host, straight through.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use crate::model::{PathInfo, StorePath};
use crate::pool::{HostId, Lease};
use crate::remote::RemoteError;
use crate::transfer::NarSink;
use crate::transfer::chunks::ChunkedDownloads;
use crate::transfer::error::HostFault;
use crate::transfer::hosts::HostBookkeeping;
use crate::transfer::progress::TransferProgress;
use crate::transfer::verify::Piece;
use crate::transfer::verify::{Taken, Verifier};
use crate::wire::nar::NarError;

/// Why an attempt with one host ended.
pub(in crate::transfer) enum Stopped {
    /// No connection could be had.
    NoConnection(HostFault),
    /// The host is to blame.
    Fault(HostFault),
    /// Nobody wants the rest.
    Sink(io::Error),
    /// The caller took nothing for long, and others needed the channel.
    GaveWay,
}

impl<E: Into<HostFault>> From<E> for Stopped {
    fn from(fault: E) -> Self {
        Self::Fault(fault.into())
    }
}

/// What a pipe holds that could not be enlarged, in bytes.
const PIPE: usize = 64 << 10;

/// As long as so much is to come, in bytes, nobody waits for the next piece of it.
const MUCH: u64 = 1 << 20;

/// For how long a large pipe is left alone: far shorter than what fills it, even from this machine.
const PAUSE: Duration = Duration::from_millis(1);

/// Lets a fast stream gather into large pieces. Who reads each piece at once makes ssh wake him for
/// each packet, and wakes the caller as often, where ssh itself needs all that the processor has.
#[derive(Default)]
struct Pace {
    /// The pipe has proven to hold more than [`PIPE`]. One that does not would fill meanwhile.
    has_room: bool,
    /// The last piece was a small one.
    in_crumbs: bool,
}

impl Pace {
    /// A read gave so many bytes.
    fn came(&mut self, len: usize) {
        self.has_room |= len > PIPE;
        self.in_crumbs = len <= PIPE;
    }

    /// Waits a moment, if that does good, where `left` bytes are to come.
    async fn keep(&self, left: u64) {
        if self.has_room && self.in_crumbs && left > MUCH {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// One try to get (the rest of) a NAR from one host.
pub(in crate::transfer) struct Attempt<'a> {
    pub(in crate::transfer) book: &'a HostBookkeeping,
    pub(in crate::transfer) info: &'a PathInfo,
    pub(in crate::transfer) host: HostId,
    pub(in crate::transfer) watch: &'a dyn TransferProgress,
    /// Who may compare what comes.
    pub(in crate::transfer) chunks: &'a ChunkedDownloads,
    pub(in crate::transfer) holders: &'a [HostId],
    /// For how long a caller may take nothing before others get the channel, if they need it.
    pub(in crate::transfer) patience: Duration,
}

impl Attempt<'_> {
    pub(in crate::transfer) async fn run(
        &self,
        known: bool,
        stream: &mut Verifier,
        sink: &mut dyn NarSink,
    ) -> Result<u64, Stopped> {
        loop {
            let pool = &self.book.pool;
            let lease = match known {
                true => pool.lease_for_dump(self.host, &self.info.path).await,
                false => pool.lease(self.host).await,
            };
            let mut lease = lease.map_err(|error| Stopped::NoConnection(error.into()))?;
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
        stream: &mut Verifier,
        sink: &mut dyn NarSink,
    ) -> Result<u64, Stopped> {
        if !known {
            self.confirm(lease).await?;
            lease.start_dump(&self.info.path);
        }
        let mut owed = self.book.rates.ask(self.host, self.info.nar_size);
        self.skip(lease, stream).await?;
        let mut pace = Pace::default();
        let mut compared =
            self.chunks
                .compare(self.info, self.holders, self.host, stream.decoder());
        let mut confirmed = BytesMut::new();
        'nar: loop {
            if let Some(compared) = &mut compared {
                let taken = compared.take(lease.buffer());
                taken.map_err(|source| self.malformed(source))?;
                if let Some(size) = compared.ended_early() {
                    return Err(self.too_short(size).into());
                }
                if let Some(part) = compared.confirmed() {
                    confirmed.extend_from_slice(&part);
                }
            }
            let before = confirmed.len();
            loop {
                let buf = match compared {
                    None => lease.buffer(),
                    Some(_) => &mut confirmed,
                };
                if buf.is_empty() {
                    break;
                }
                let before = stream.taken();
                let taken = stream.take(buf).map_err(|refused| {
                    let (host, path) = self.names();
                    refused.into_fault(host, path)
                })?;
                self.watch.advance(stream.taken() - before);
                owed.received(stream.taken() - before);
                match taken {
                    Taken::Nothing => break,
                    Taken::Pass(piece) => self.pass_on(piece, lease, sink).await?,
                    Taken::Complete => break 'nar,
                }
            }
            if let Some(compared) = &mut compared {
                if compared.is_wrong() {
                    let (host, path) = self.names();
                    return Err(HostFault::Disproved { host, path }.into());
                }
                if confirmed.len() < before {
                    continue;
                }
                if compared.is_full() {
                    compared.changed().await;
                    continue;
                }
            }
            let left = self.info.nar_size.saturating_sub(stream.taken());
            pace.keep(left).await;
            self.more(lease).await?;
            pace.came(lease.buffer().len());
        }
        lease.end_dump();
        let held = stream.verify().map_err(|unfit| {
            let (host, path) = self.names();
            unfit.into_fault(host, path)
        })?;
        // Others may have the connection: who takes this may take its time.
        lease.end();
        for piece in held {
            sink.write(piece).await.map_err(Stopped::Sink)?;
        }
        Ok(stream.taken())
    }

    /// Passes a piece on. Others get the channel when they need it and the caller takes nothing for long.
    async fn pass_on(
        &self,
        piece: Piece,
        lease: &mut Lease,
        sink: &mut dyn NarSink,
    ) -> Result<(), Stopped> {
        let mut write = sink.write(piece);
        tokio::select! {
            biased;
            written = &mut write => return written.map_err(Stopped::Sink),
            () = lease.until_needed(self.patience) => {}
        }
        lease.end();
        write.await.map_err(Stopped::Sink)?;
        Err(Stopped::GaveWay)
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
    async fn skip(&self, lease: &mut Lease, stream: &Verifier) -> Result<(), Stopped> {
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
        let (host, path) = self.names();
        let fault = |error| fault(error, host, path);
        Ok(lease.nar_bytes().await.map_err(fault)?)
    }

    fn malformed(&self, source: NarError) -> HostFault {
        let (host, path) = self.names();
        HostFault::Malformed { host, path, source }
    }

    /// The archive has ended after so many bytes.
    fn too_short(&self, size: u64) -> HostFault {
        let (host, path) = self.names();
        HostFault::Mismatch {
            host,
            path,
            expected: format!("{} bytes", self.info.nar_size),
            got: format!("an archive of {size} bytes"),
        }
    }

    fn names(&self) -> (String, StorePath) {
        let host = self.book.pool.host(self.host).to_string();
        (host, self.info.path.clone())
    }
}

/// What it means that the connection failed while the NAR of `path` was owed.
pub(in crate::transfer) fn fault(error: RemoteError, host: String, path: StorePath) -> HostFault {
    let error = match error.or_absent(std::slice::from_ref(&path)) {
        RemoteError::Absent { .. } => return HostFault::Lacks { host, path },
        error => error,
    };
    // nix-store ends when it cannot dump what it is asked for, and names it.
    let mut lines = error.stderr().lines().map(str::trim);
    let about_it = lines.rfind(|line| line.contains("error:") && line.contains(path.base_name()));
    match about_it.map(str::to_owned) {
        Some(said) => HostFault::CannotSend { host, path, said },
        None => HostFault::Remote(Arc::new(error)),
    }
}
