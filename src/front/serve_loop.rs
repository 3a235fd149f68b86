//! The server's side of the serve protocol, over whatever answers the questions.

use std::io;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::hint::Hint;
use crate::model::{PathInfo, StorePath};
use crate::wire::nar::{Completion, failing_nar};
use crate::wire::serve::{
    Incoming, Request, RequestDecoder, SERVER_MAGIC, Version, put_info, put_infos_end, put_set,
    take_client_hello,
};
use crate::wire::{WireError, put_u64};

/// Space for one read of requests.
const READ: usize = 64 << 10;

/// How much is filled up at most, in bytes: 64 GiB, a minute or two. A host that only promises an endless
/// file shall not fill the caller's disk, which costs more than the connection.
const MOST_ZEROS: u64 = 64 << 30;

/// How much is written at a time where contents are filled up.
const ZEROS: usize = 64 << 10;

/// Answers the questions of a serve loop.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Which of these paths are there; sorted, each once.
    ///
    /// # Errors
    /// What ends the loop.
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, ServeError>;

    /// What is known about those of these paths that are there; each once.
    ///
    /// # Errors
    /// What ends the loop.
    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, ServeError>;

    /// These paths and all they refer to; sorted, each once.
    ///
    /// # Errors
    /// What ends the loop.
    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, ServeError>;

    /// Writes the NAR of a path to `out`, always a complete one, whatever goes wrong.
    ///
    /// # Errors
    /// [`DumpError::Broken`] with what completes the bytes that were written, and any other that
    /// ends the loop.
    async fn dump(
        &self,
        path: &StorePath,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), DumpError>;
}

/// Why a NAR did not come out right.
#[derive(Debug)]
pub enum DumpError {
    /// The caller gets something complete that is not what it asked for, and goes on.
    Broken(Completion),
    /// The loop ends.
    Fatal(ServeError),
}

impl From<io::Error> for DumpError {
    fn from(source: io::Error) -> Self {
        Self::Fatal(ServeError::Io(source))
    }
}

/// Why a serve loop ended before its caller had enough.
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
    /// It asked for something that is not served.
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
        "cannot complete a NAR that broke off: {0} bytes are missing, and at most {MOST_ZEROS} are filled with zeros"
    )]
    Incomplete(u64),
    /// Standard input or output failed.
    #[error("cannot talk to the caller: {0}")]
    Io(#[from] io::Error),
    /// The store that answers failed.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
}

impl Hint for ServeError {
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Serves until the caller ends its side: `backend` behind the serve protocol, in the caller's
/// version but at most `newest`.
///
/// # Errors
/// When the caller does not speak the protocol or asks for what is not served, when the streams
/// fail, and what the backend counts as fatal.
pub async fn serve(
    mut input: impl AsyncRead + Send + Unpin,
    mut output: impl AsyncWrite + Send + Unpin,
    backend: &dyn Backend,
    newest: Version,
) -> Result<(), ServeError> {
    let mut buf = BytesMut::with_capacity(READ);
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
    let mut out = Vec::new();
    put_u64(&mut out, SERVER_MAGIC);
    put_u64(&mut out, newest.number());
    output.write_all(&out).await?;
    output.flush().await?;
    let version = newest
        .negotiate(theirs)
        .ok_or(ServeError::Version(theirs))?;
    let mut requests = RequestDecoder::default();
    loop {
        if let Some(incoming) = requests.step(&mut buf)? {
            answer(incoming, &mut output, backend, version).await?;
            output.flush().await?;
        } else {
            buf.reserve(READ);
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

async fn answer(
    incoming: Incoming,
    output: &mut (impl AsyncWrite + Send + Unpin),
    backend: &dyn Backend,
    version: Version,
) -> Result<(), ServeError> {
    let mut out = Vec::new();
    match incoming {
        Incoming::Request(Request::QueryValidPaths { paths, .. }) => {
            put_set(&mut out, &backend.valid_paths(&paths).await?);
        }
        Incoming::Request(Request::QueryPathInfos { paths }) => {
            for info in backend.path_infos(&paths).await? {
                if version.has_hash() && info.nar_hash.is_none() {
                    log::warn!(
                        "{}: left out, since its host is too old to report its NAR hash",
                        info.path
                    );
                    continue;
                }
                put_info(&mut out, version, &info);
            }
            put_infos_end(&mut out);
        }
        Incoming::Request(Request::QueryClosure {
            include_outputs,
            paths,
        }) => {
            let closure = backend.closure(&paths, include_outputs).await?;
            put_set(&mut out, &closure);
        }
        Incoming::Request(Request::DumpStorePath { path }) => {
            match backend.dump(&path, output).await {
                Ok(()) => {}
                Err(DumpError::Broken(rest)) => complete(output, &rest).await?,
                Err(DumpError::Fatal(error)) => return Err(error),
            }
        }
        Incoming::DumpOf(error) => {
            log::warn!("asked to dump something that is not a store path: {error}");
            out = failing_nar(&error.to_string());
        }
        Incoming::NotServed { op, name } => return Err(ServeError::NotServed { op, name }),
    }
    output.write_all(&out).await?;
    Ok(())
}

async fn complete(
    output: &mut (impl AsyncWrite + Send + Unpin),
    rest: &Completion,
) -> Result<(), ServeError> {
    if rest.fill > MOST_ZEROS {
        return Err(ServeError::Incomplete(rest.fill));
    }
    output.write_all(&rest.head).await?;
    let zeros = vec![0; ZEROS];
    let mut fill = rest.fill;
    while fill > 0 {
        let len = usize::try_from(fill).map_or(ZEROS, |fill| fill.min(ZEROS));
        output.write_all(&zeros[..len]).await?;
        fill -= len as u64;
    }
    Ok(output.write_all(&rest.tail).await?)
}
