//! How long a client may take to read.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutWriter;

/// How long a write to a client may take. A client that does not read holds a connection to a host meanwhile, which
/// others wait for. A front end goes on without the engine, from the same byte, once its own caller reads again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs one write, which fails with [`io::ErrorKind::TimedOut`] after [`WRITE_TIMEOUT`].
pub(super) async fn with_write_timeout<T>(
    write: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let written = timeout(WRITE_TIMEOUT, write).await;
    written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A writer each of whose writes fails in the same way.
pub(super) fn writer_with_timeout<W: AsyncWrite>(inner: W) -> Pin<Box<TimeoutWriter<W>>> {
    let mut writer = TimeoutWriter::new(inner);
    writer.set_timeout(Some(WRITE_TIMEOUT));
    Box::pin(writer)
}
