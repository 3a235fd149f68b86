//! A pipe into a program that can be closed while its owner still holds it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Closes the pipe on `shutdown`, which is the end of file for the reader. A bare pipe ignores `shutdown`,
/// and the program at the other end would wait for ever.
pub(super) struct ClosingPipe<W>(Option<W>);

impl<W> ClosingPipe<W> {
    pub(super) fn new(pipe: W) -> Self {
        Self(Some(pipe))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for ClosingPipe<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(pipe) = &mut self.0 else {
            return Poll::Ready(Ok(()));
        };
        let flushed = Pin::new(pipe).poll_flush(context);
        if flushed.is_ready() {
            self.0 = None;
        }
        flushed
    }
}
