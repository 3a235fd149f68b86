//! The text protocol: `--query` and `--substitute`, as Nix 1.7 to 1.11 start them.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::backend::{Backend, BackendError, DeliveryError};
use crate::hint::without_hint;
use crate::model::{PathInfo, StorePath, StorePathError};
use crate::transfer::unpack::{self, UnpackError, Unpacker};
use crate::transfer::{NarSink, Piece};
use crate::wire::WireError;
use crate::wire::text::{LineDecoder, QueryKind, parse_query, put_have, put_infos};

/// Buffer for one read of requests, in bytes.
const READ_SIZE: usize = 64 << 10;

/// How many pieces of a NAR may be received before the disk has taken them.
const DISK_QUEUE: usize = 16;

/// Why `--query` ended early.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A request that cannot be decoded.
    #[error("the caller sent something wrong: {0}")]
    Wire(#[from] WireError),
    /// Standard input or output failed.
    #[error("cannot talk to the caller: {0}")]
    Io(#[from] io::Error),
    /// The backend can answer nothing any more.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

without_hint!(QueryError);

/// Answers `have` and `info` until the caller ends its side. Unknown requests and words that are not store paths are
/// reported on stderr and answered as not available.
///
/// # Errors
/// When the streams fail or a line is too long.
pub async fn query(
    mut input: impl AsyncRead + Send + Unpin,
    mut output: impl AsyncWrite + Send + Unpin,
    backend: &dyn Backend,
) -> Result<(), QueryError> {
    // The line that the caller waits for first, and ignores.
    output.write_all(b"\n").await?;
    output.flush().await?;
    let mut buf = BytesMut::with_capacity(READ_SIZE);
    let mut lines = LineDecoder::default();
    loop {
        if let Some(line) = lines.step(&mut buf)? {
            let reply = answer(&line, backend).await?;
            output.write_all(&reply).await?;
            output.flush().await?;
        } else {
            buf.reserve(READ_SIZE);
            if input.read_buf(&mut buf).await? == 0 {
                return Ok(());
            }
        }
    }
}

async fn answer(line: &[u8], backend: &dyn Backend) -> Result<Vec<u8>, BackendError> {
    let query = parse_query(line);
    for bad in &query.bad {
        log::warn!("{bad}");
    }
    if query.more_bad > 0 {
        log::warn!("{} more words are not store paths", query.more_bad);
    }
    let mut out = Vec::new();
    match query.kind {
        QueryKind::Have => {
            put_have(&mut out, &backend.valid_paths(&query.paths).await?);
        }
        QueryKind::Info => {
            put_infos(&mut out, &backend.path_infos(&query.paths).await?);
        }
        QueryKind::Unknown(word) => {
            log::warn!("expected a request \"have\" or \"info\", got {word}");
            put_have(&mut out, &[]);
        }
    }
    Ok(out)
}

/// Why `--substitute` restored nothing.
#[derive(Debug, thiserror::Error)]
pub enum SubstituteError {
    /// The argument is not a store path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// No host has it, or none could deliver it.
    #[error(transparent)]
    Undelivered(#[from] DeliveryError),
    /// The backend can answer nothing any more.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// It could not be written.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Standard output failed.
    #[error("cannot talk to the caller: {0}")]
    Io(#[from] io::Error),
}

// Warnings about the hosts have come before, each with its hint.
without_hint!(SubstituteError);

/// Fetches `path` and restores it at `dest`, which must not exist; its parent must. The first line, which the caller
/// ignores, is always written; the second one, the NAR hash, only once `dest` is complete.
///
/// # Errors
/// When no host has the path, none can deliver it, or it cannot be written. Nothing is left at
/// `dest` then.
pub async fn substitute(
    path: &str,
    dest: &Path,
    mut output: impl AsyncWrite + Send + Unpin,
    backend: &dyn Backend,
) -> Result<(), SubstituteError> {
    // Without this line a failure would end the caller's whole command.
    output.write_all(b"\n").await?;
    output.flush().await?;
    let path = StorePath::parse(path)?;
    let infos = backend.path_infos(std::slice::from_ref(&path)).await?;
    let Some(info) = infos.first() else {
        // Only to get the reason.
        let delivered = backend.deliver(&path, &mut ClosedSink).await;
        return Err(match delivered.map_err(|undelivered| undelivered.error) {
            Err(error) if !matches!(error, DeliveryError::Sink(_)) => error.into(),
            _ => io::Error::other("delivered although no host reported it").into(),
        });
    };
    restore(info, dest.to_owned(), backend).await?;
    let line = info
        .nar_hash
        .map_or("\n".to_owned(), |hash| format!("{hash}\n"));
    output.write_all(line.as_bytes()).await?;
    output.flush().await?;
    Ok(())
}

/// Receiving and writing overlap: another thread writes to the disk.
async fn restore(
    info: &PathInfo,
    dest: PathBuf,
    backend: &dyn Backend,
) -> Result<(), SubstituteError> {
    let limit = match info.nar_size {
        0 => u64::MAX,
        size => size,
    };
    let (pieces, mut ready) = mpsc::channel::<Bytes>(DISK_QUEUE);
    // When this future is dropped, the channel closes, the thread ends, and the unpacker that it returns removes what it
    // made.
    let path = info.path.clone();
    let disk = tokio::task::spawn_blocking(move || -> Result<Unpacker, UnpackError> {
        // A store has its own collector, and is too large to be searched.
        if let Some(folder) = dest.parent()
            && Some(folder) != Path::new(path.as_str()).parent()
        {
            unpack::sweep(folder);
        }
        let mut unpacker = Unpacker::for_nix(&path, &dest, limit)?;
        while let Some(piece) = ready.blocking_recv() {
            unpacker.write(&piece)?;
        }
        Ok(unpacker)
    });
    let delivered = backend.deliver(&info.path, &mut DiskSink(pieces)).await;
    // The disk's error is more specific than that of a closed sink.
    let unpacker = disk.await.map_err(io::Error::other)??;
    if let Err(undelivered) = delivered {
        return Err(undelivered.error.into());
    }
    tokio::task::spawn_blocking(move || unpacker.commit())
        .await
        .map_err(io::Error::other)??;
    Ok(())
}

struct DiskSink(mpsc::Sender<Bytes>);

#[async_trait]
impl NarSink for DiskSink {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.send(piece.bytes).await.map_err(closed)
    }
}

struct ClosedSink;

#[async_trait]
impl NarSink for ClosedSink {
    async fn write(&mut self, _: Piece) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}
