//! Listens, and limits what clients may occupy.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutWriter;

use super::nar_body::TAKE_TIMEOUT;
use super::service::{ResponseBody, Service};
use crate::hint::Hint;

/// How many connections there may be. More wait until one ends: idle ones do after [`HEADER_TIMEOUT`].
const CONNECTIONS_MAX: usize = 1024;

/// How long a client may take to send the head of a request, and how long a connection may lie idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest head of a request, in bytes, and how many headers there may be in it.
const HEAD_MAX: usize = 16 << 10;
/// See [`HEAD_MAX`].
const HEADERS_MAX: usize = 64;

/// How long to wait after accepting a connection failed (too many open files, say).
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is in use, or not one of this machine.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A socket that was made for this process cannot be used.
    #[error("cannot use a socket that was passed on")]
    Socket(#[source] io::Error),
}

impl Hint for HttpError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "another server has that port: see 'ss -ltnp', or choose another one with --listen"
                    .to_owned(),
            ),
            Self::Bind { .. } => {
                Some("--listen takes an address of this machine and a port".to_owned())
            }
            Self::Socket(_) => None,
        }
    }
}

/// The server answers to other machines.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is not of this machine alone: whoever reaches it can get every path that the hosts have"
)]
pub struct OpenToOthers(pub SocketAddr);

impl Hint for OpenToOthers {
    fn hint(&self) -> Option<String> {
        Some("see docs/http.md, \"Who may connect\"".to_owned())
    }
}

/// Listens on an address; port 0 takes any that is free.
///
/// # Errors
/// When the address is in use, or not one of this machine.
pub fn bind(address: SocketAddr) -> Result<StdTcpListener, HttpError> {
    StdTcpListener::bind(address).map_err(|source| HttpError::Bind { address, source })
}

/// Serves on all of these until the future is dropped. Connections end with it.
///
/// # Errors
/// When a listener cannot be used.
pub async fn serve(listeners: Vec<StdTcpListener>, service: Arc<Service>) -> Result<(), HttpError> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut all = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(HttpError::Socket)?;
        let listener = TcpListener::from_std(listener).map_err(HttpError::Socket)?;
        all.spawn(accept(listener, service.clone(), room.clone()));
    }
    while all.join_next().await.is_some() {}
    Ok(())
}

async fn accept(listener: TcpListener, service: Arc<Service>, room: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let service = service.clone();
                connections.spawn(async move {
                    if let Err(error) = connection(stream, peer, &service).await {
                        log::debug!("a connection of {peer} ended: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                log::debug!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: &Service,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?.ip();
    let client = service.connect(peer.ip());
    let client = &*client;
    let answer = service_fn(async |request: Request<Incoming>| {
        let response = service.answer(&request, local, client).await;
        Ok::<Response<ResponseBody>, Infallible>(response)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(with_write_timeout(stream)), answer)
        .await?;
    Ok(())
}

/// Each write fails when the client takes nothing for [`TAKE_TIMEOUT`].
fn with_write_timeout(stream: TcpStream) -> Pin<Box<TimeoutWriter<TcpStream>>> {
    let mut writer = TimeoutWriter::new(stream);
    writer.set_timeout(Some(TAKE_TIMEOUT));
    Box::pin(writer)
}
