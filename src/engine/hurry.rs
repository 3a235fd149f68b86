//! A writer that does not wait for ever for whoever reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

use super::frames::STUCK;

/// Fails with [`io::ErrorKind::TimedOut`] when nothing could be written for 30 seconds.
pub(super) struct Hurry<W> {
    inner: W,
    /// When it fails, while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<W: AsyncWrite + Unpin> Hurry<W> {
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner,
            deadline: None,
        }
    }

    /// What a step gave, unless it waits for too long.
    fn judge<T>(
        &mut self,
        step: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.deadline = None;
            return step;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(STUCK)));
        ready!(deadline.as_mut().poll(context));
        self.deadline = None;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Hurry<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge(step, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.inner).poll_flush(context);
        self.judge(step, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.inner).poll_shutdown(context);
        self.judge(step, context)
    }
}
