//! The classic door: `--query` and `--substitute`, as Nix 1.7 to 1.11 start them.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::model::{NarHash, StorePath, StorePathError};
use crate::resolver::{Found, NotFound, Resolver};
use crate::transfer::unpack::{UnpackError, Unpacker};
use crate::transfer::{NarSink, TransferError, Transfers};
use crate::wire::WireError;
use crate::wire::text::{QueryKind, parse_query, put_have, put_infos, take_line};

/// Space for one read of requests.
const READ: usize = 64 << 10;

/// How many pieces of a NAR may be received ahead of the disk.
const AHEAD: usize = 16;

/// Why `--query` ended early.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A request that cannot be understood.
    #[error("the caller sent something wrong: {0}")]
    Wire(#[from] WireError),
    /// Standard input or output failed.
    #[error("cannot talk to the caller: {0}")]
    Io(#[from] io::Error),
}

/// Answers `have` and `info` until the caller ends its side. A line it knows nothing of and words
/// that are no store paths are told on stderr and answered as not available.
///
/// # Errors
/// When the streams fail or a line is too long.
pub async fn query(
    mut input: impl AsyncRead + Send + Unpin,
    mut output: impl AsyncWrite + Send + Unpin,
    resolver: &Resolver,
) -> Result<(), QueryError> {
    // The line that the caller waits for first, and ignores.
    output.write_all(b"\n").await?;
    output.flush().await?;
    let mut buf = BytesMut::with_capacity(READ);
    loop {
        if let Some(line) = take_line(&mut buf)? {
            let reply = answer(&line, resolver).await;
            output.write_all(&reply).await?;
            output.flush().await?;
        } else {
            buf.reserve(READ);
            if input.read_buf(&mut buf).await? == 0 {
                return Ok(());
            }
        }
    }
}

async fn answer(line: &[u8], resolver: &Resolver) -> Vec<u8> {
    let query = parse_query(line);
    for bad in &query.bad {
        log::warn!("{bad}");
    }
    let mut out = Vec::new();
    match query.kind {
        QueryKind::Have => {
            let found = resolver.find(&query.paths).await;
            let paths: Vec<_> = found.iter().map(|f| f.info.path.clone()).collect();
            put_have(&mut out, &paths);
        }
        QueryKind::Info => {
            let found = resolver.find(&query.paths).await;
            put_infos(&mut out, found.iter().map(|found| &*found.info));
        }
        QueryKind::Unknown(word) => {
            log::warn!("expected a request \"have\" or \"info\", got {word}");
            put_have(&mut out, &[]);
        }
    }
    out
}

/// Why `--substitute` brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum SubstituteError {
    /// What was asked for is no store path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// Nobody has it.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It could not be brought.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// It could not be written.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Standard output failed.
    #[error("cannot talk to the caller: {0}")]
    Io(#[from] io::Error),
}

/// Brings `path` and restores it at `dest`, which must not exist; its parent must. Whatever
/// happens, the first line (which the caller ignores) is written; the second one, the NAR hash,
/// only when `dest` is there and right.
///
/// # Errors
/// When nobody has the path, nobody can deliver it, or it cannot be written. Nothing is left at
/// `dest` then.
pub async fn substitute(
    path: &str,
    dest: &Path,
    mut output: impl AsyncWrite + Send + Unpin,
    resolver: &Resolver,
    transfers: &Transfers,
) -> Result<(), SubstituteError> {
    // Without this line a failure would be fatal for the caller's whole command.
    output.write_all(b"\n").await?;
    output.flush().await?;
    let path = StorePath::parse(path)?;
    let found = resolver.find(std::slice::from_ref(&path)).await;
    let Some(found) = found.first() else {
        return Err(resolver.not_found(&path).into());
    };
    let hash = restore(found, dest.to_owned(), transfers).await?;
    let line = hash.map_or("\n".to_owned(), |hash| format!("{hash}\n"));
    output.write_all(line.as_bytes()).await?;
    output.flush().await?;
    Ok(())
}

/// Receiving and writing overlap: the disk has a thread of its own.
async fn restore(
    found: &Found,
    dest: PathBuf,
    transfers: &Transfers,
) -> Result<Option<NarHash>, SubstituteError> {
    let limit = match found.info.nar_size {
        0 => u64::MAX,
        size => size,
    };
    let (pieces, mut ready) = mpsc::channel::<Bytes>(AHEAD);
    // When this future is dropped, the channel closes, the thread comes to its end and the
    // unpacker that it gives back removes what it made.
    let disk = tokio::task::spawn_blocking(move || -> Result<Unpacker, UnpackError> {
        let mut unpacker = Unpacker::new(&dest, limit)?;
        while let Some(piece) = ready.blocking_recv() {
            unpacker.write(&piece)?;
        }
        Ok(unpacker)
    });
    let fetched = transfers
        .fetch(&found.info, &found.holders, &mut ToDisk(pieces))
        .await;
    // The disk's own trouble tells more than that it took no more.
    let unpacker = disk.await.map_err(io::Error::other)??;
    if let Err(failed) = fetched {
        return Err(failed.error.into());
    }
    tokio::task::spawn_blocking(move || unpacker.commit())
        .await
        .map_err(io::Error::other)??;
    Ok(found.info.nar_hash)
}

struct ToDisk(mpsc::Sender<Bytes>);

#[async_trait]
impl NarSink for ToDisk {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.send(bytes).await.map_err(closed)
    }
}
