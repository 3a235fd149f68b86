//! The classic door: `--query` and `--substitute`, as Nix 1.7 to 1.11 start them.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::serve_loop::ServeError;
use super::source::{Reason, Source};
use crate::hint::Hint;
use crate::model::{PathInfo, StorePath, StorePathError};
use crate::transfer::unpack::{self, UnpackError, Unpacker};
use crate::transfer::{NarSink, Piece};
use crate::wire::WireError;
use crate::wire::text::{LineDecoder, QueryKind, parse_query, put_have, put_infos};

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
    /// Whoever answers failed.
    #[error(transparent)]
    Source(#[from] ServeError),
}

impl Hint for QueryError {
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Answers `have` and `info` until the caller ends its side. A line it knows nothing of and words
/// that are not store paths are told on stderr and answered as not available.
///
/// # Errors
/// When the streams fail or a line is too long.
pub async fn query(
    mut input: impl AsyncRead + Send + Unpin,
    mut output: impl AsyncWrite + Send + Unpin,
    source: &dyn Source,
) -> Result<(), QueryError> {
    // The line that the caller waits for first, and ignores.
    output.write_all(b"\n").await?;
    output.flush().await?;
    let mut buf = BytesMut::with_capacity(READ);
    let mut lines = LineDecoder::default();
    loop {
        if let Some(line) = lines.step(&mut buf)? {
            let reply = answer(&line, source).await?;
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

async fn answer(line: &[u8], source: &dyn Source) -> Result<Vec<u8>, ServeError> {
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
            put_have(&mut out, &source.valid_paths(&query.paths).await?);
        }
        QueryKind::Info => {
            put_infos(&mut out, &source.path_infos(&query.paths).await?);
        }
        QueryKind::Unknown(word) => {
            log::warn!("expected a request \"have\" or \"info\", got {word}");
            put_have(&mut out, &[]);
        }
    }
    Ok(out)
}

/// Why `--substitute` brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum SubstituteError {
    /// What was asked for is not a store path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// Nobody has it, or it could not be brought.
    #[error(transparent)]
    Undelivered(#[from] Reason),
    /// Whoever answers failed.
    #[error(transparent)]
    Source(#[from] ServeError),
    /// It could not be written.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Standard output failed.
    #[error("cannot talk to the caller: {0}")]
    Io(#[from] io::Error),
}

impl Hint for SubstituteError {
    fn hint(&self) -> Option<String> {
        // Warnings about the hosts have come before, each with its hint.
        None
    }
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
    source: &dyn Source,
) -> Result<(), SubstituteError> {
    // Without this line a failure would be fatal for the caller's whole command.
    output.write_all(b"\n").await?;
    output.flush().await?;
    let path = StorePath::parse(path)?;
    let infos = source.path_infos(std::slice::from_ref(&path)).await?;
    let Some(info) = infos.first() else {
        // To learn why.
        let brought = source.bring(&path, &mut ToNowhere).await;
        return Err(match brought.map_err(|undelivered| undelivered.reason) {
            Err(reason) if !matches!(reason, Reason::Sink(_)) => reason.into(),
            _ => io::Error::other("delivered although no host reported it").into(),
        });
    };
    restore(info, dest.to_owned(), source).await?;
    let line = info
        .nar_hash
        .map_or("\n".to_owned(), |hash| format!("{hash}\n"));
    output.write_all(line.as_bytes()).await?;
    output.flush().await?;
    Ok(())
}

/// Receiving and writing overlap: the disk has a thread of its own.
async fn restore(
    info: &PathInfo,
    dest: PathBuf,
    source: &dyn Source,
) -> Result<(), SubstituteError> {
    let limit = match info.nar_size {
        0 => u64::MAX,
        size => size,
    };
    let (pieces, mut ready) = mpsc::channel::<Bytes>(AHEAD);
    // When this future is dropped, the channel closes, the thread comes to its end and the
    // unpacker that it gives back removes what it made.
    let path = info.path.clone();
    let disk = tokio::task::spawn_blocking(move || -> Result<Unpacker, UnpackError> {
        // A store is swept by its own collector, and may hold so much that to look through it takes long.
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
    let brought = source.bring(&info.path, &mut ToDisk(pieces)).await;
    // The disk's own trouble tells more than that it took no more.
    let unpacker = disk.await.map_err(io::Error::other)??;
    if let Err(undelivered) = brought {
        return Err(undelivered.reason.into());
    }
    tokio::task::spawn_blocking(move || unpacker.commit())
        .await
        .map_err(io::Error::other)??;
    Ok(())
}

struct ToDisk(mpsc::Sender<Bytes>);

#[async_trait]
impl NarSink for ToDisk {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.send(piece.bytes).await.map_err(closed)
    }
}

struct ToNowhere;

#[async_trait]
impl NarSink for ToNowhere {
    async fn write(&mut self, _: Piece) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}
