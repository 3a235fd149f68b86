//! The server's side of the serve protocol (`nix-store --serve`), over any backend: on standard input and output, and
//! on the engine's socket.
//!
//! | module | what it does |
//! | --- | --- |
//! | `output` | where replies and NARs go; moves bytes from pipe to pipe |
//! | `segments` | the replies of the extension, where the backend has parts of NARs |
//! | `reply` | the replies to queries |

mod output;
mod reply;
mod segments;

pub use output::{Output, Splice};
pub(crate) use reply::{MissingHash, put_reply};

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::backend::{Backend, BackendError, DeliveryError, Undelivered};
use crate::hint::without_hint;
use crate::model::StorePath;
use crate::wire::nar::{Completion, failing_nar};
use crate::wire::serve::extension;
use crate::wire::serve::{Incoming, Request, SERVER_MAGIC, Version, take_client_hello};
use crate::wire::{WireError, put_u64};

/// Buffer for one read of requests, in bytes.
const READ_SIZE: usize = 64 << 10;

/// How many zero bytes complete a NAR at most: 64 GiB, a minute or two. A host that announces an endless file must not
/// fill the caller's disk; losing the connection costs less.
const MAX_ZEROS: u64 = 64 << 30;

/// How many zero bytes are written at a time.
const ZEROS_CHUNK: usize = 64 << 10;

/// Why a serve loop ended before its caller closed the connection.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The caller does not speak the protocol.
    #[error("the caller sent something wrong: {0}")]
    Wire(#[from] WireError),
    /// The caller's version is another.
    #[error(
        "the caller speaks version {}.{} of the serve protocol, expected {} to {}",
        .0 >> 8, .0 & 0xff, Version::OLDEST, Version::NEWEST
    )]
    Version(u64),
    /// The caller requested something that is not served.
    #[error(
        "{name} (operation {op}) is refused: this program only serves paths: it accepts none and builds none"
    )]
    NotServed {
        /// Number of the operation.
        op: u64,
        /// Its name.
        name: &'static str,
    },
    /// The caller went away in the middle of a request.
    #[error("the caller ended in the middle of a request")]
    CutOff,
    /// What a host has begun to send cannot be completed for the caller.
    #[error(
        "cannot complete a NAR that broke off: {0} bytes are missing, and at most {MAX_ZEROS} are filled with zeros"
    )]
    Incomplete(u64),
    /// Standard input or output failed.
    #[error("cannot talk to the caller: {0}")]
    Io(#[from] io::Error),
    /// The store that answers failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

without_hint!(ServeError);

/// Serves until the caller ends its side: `backend` behind the serve protocol, in the caller's
/// version but at most `newest`.
///
/// # Errors
/// When the caller does not speak the protocol or requests what is not served, when the streams
/// fail, and when the backend can answer nothing any more.
pub async fn serve<W: AsyncWrite + Send + Unpin>(
    mut input: impl AsyncRead + Send + Unpin,
    mut output: Output<W>,
    backend: &dyn Backend,
    newest: Version,
) -> Result<(), ServeError> {
    let mut buf = BytesMut::with_capacity(READ_SIZE);
    let theirs = loop {
        if let Some(theirs) = take_client_hello(&mut buf)? {
            break theirs;
        }
        if input.read_buf(&mut buf).await? == 0 {
            return if buf.is_empty() {
                Ok(())
            } else {
                Err(ServeError::CutOff)
            };
        }
    };
    let mut hello = Vec::new();
    put_u64(&mut hello, SERVER_MAGIC);
    put_u64(&mut hello, newest.number());
    output.writer.write_all(&hello).await?;
    output.writer.flush().await?;
    let version = newest
        .negotiate(theirs)
        .ok_or(ServeError::Version(theirs))?;
    let mut requests = extension::RequestDecoder::new(backend.segments().is_some());
    loop {
        if let Some(incoming) = requests.step(&mut buf)? {
            match (incoming, backend.segments()) {
                (extension::Incoming::Serve(incoming), _) => {
                    answer(incoming, &mut output, backend, version).await?;
                }
                (extension::Incoming::Extension(request), Some(all)) => {
                    segments::answer(request, all, &mut output.writer).await?;
                }
                (extension::Incoming::Unfit(reason), _) => {
                    segments::refuse(&reason, &mut output.writer).await?;
                }
                (extension::Incoming::Extension(_), None) => {
                    segments::refuse("there are no parts here", &mut output.writer).await?;
                }
            }
            output.writer.flush().await?;
        } else {
            buf.reserve(READ_SIZE);
            if input.read_buf(&mut buf).await? == 0 {
                return if requests.is_between_requests(&buf) {
                    Ok(())
                } else {
                    Err(ServeError::CutOff)
                };
            }
        }
    }
}

async fn answer<W: AsyncWrite + Send + Unpin>(
    incoming: Incoming,
    output: &mut Output<W>,
    backend: &dyn Backend,
    version: Version,
) -> Result<(), ServeError> {
    let mut reply = Vec::new();
    match incoming {
        Incoming::Request(Request::DumpStorePath { path }) => {
            return dump(&path, output, backend).await;
        }
        Incoming::Request(query) => {
            let missing_hash = MissingHash::LeaveOut;
            put_reply(&mut reply, query, backend, version, missing_hash).await?;
        }
        Incoming::DumpOf(error) => {
            log::warn!("asked to dump something that is not a store path: {error}");
            reply = failing_nar(&error.to_string());
        }
        Incoming::NotServed { op, name } => return Err(ServeError::NotServed { op, name }),
    }
    Ok(output.writer.write_all(&reply).await?)
}

/// Writes a NAR, always a complete one: the protocol has no reply for a path that cannot be delivered.
async fn dump<W: AsyncWrite + Send + Unpin>(
    path: &StorePath,
    output: &mut Output<W>,
    backend: &dyn Backend,
) -> Result<(), ServeError> {
    let Err(Undelivered { error, completion }) = backend.deliver(path, output).await else {
        return Ok(());
    };
    match error {
        DeliveryError::Sink(error) => return Err(error.into()),
        DeliveryError::Backend(error) => return Err(error.into()),
        error @ DeliveryError::NotFound(_) => log::warn!("{error}"),
        error => log::error!("{error}"),
    }
    complete(&mut output.writer, &completion).await
}

async fn complete(
    output: &mut (impl AsyncWrite + Unpin),
    completion: &Completion,
) -> Result<(), ServeError> {
    if completion.fill > MAX_ZEROS {
        return Err(ServeError::Incomplete(completion.fill));
    }
    output.write_all(&completion.head).await?;
    let zeros = vec![0; ZEROS_CHUNK];
    let mut fill = completion.fill;
    while fill > 0 {
        let len = usize::try_from(fill).map_or(ZEROS_CHUNK, |fill| fill.min(ZEROS_CHUNK));
        output.write_all(&zeros[..len]).await?;
        fill -= len as u64;
    }
    Ok(output.write_all(&completion.tail).await?)
}
