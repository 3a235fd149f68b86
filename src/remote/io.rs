//! The two directions of a connection.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::wire::put_u64;
use crate::wire::serve::{CLIENT_MAGIC, Request, Version};

/// Space for one read. A pipe gives at most 64 KiB at a time unless it was enlarged.
const READ: usize = 256 << 10;

/// What comes from the remote.
pub(super) struct Input {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buf: BytesMut,
}

impl Input {
    pub(super) fn new(stream: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self {
            stream,
            buf: BytesMut::new(),
        }
    }

    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    pub(super) fn peek(&self) -> &[u8] {
        &self.buf
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Reads once; 0 is the end of the stream.
    pub(super) async fn fill(&mut self) -> std::io::Result<usize> {
        self.buf.reserve(READ);
        self.stream.read_buf(&mut self.buf).await
    }

    /// Whether a read would give something (or the end) at once.
    pub(super) fn has_something_to_say(&mut self) -> bool {
        use std::task::{Context, Poll, Waker};
        let mut byte = [0; 1];
        let mut read = tokio::io::ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let poll = std::pin::Pin::new(&mut self.stream).poll_read(&mut context, &mut read);
        !matches!(poll, Poll::Pending)
    }
}

/// What goes to the remote: written by a task of its own, so that a remote which does not read
/// before its reply is taken cannot block us.
pub(super) struct Output {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Output {
    pub(super) fn new(mut stream: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        // Unbounded, but never long: requests are small and limited by the questions at hand.
        let (queue, mut requests) = mpsc::unbounded_channel::<Vec<u8>>();
        let task = tokio::spawn(async move {
            while let Some(bytes) = requests.recv().await {
                // A failure shows as the end of what comes back.
                if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
        Self { queue, task }
    }

    /// Our hello and what is asked ahead of theirs, as one piece: so it fits into one packet.
    pub(super) fn send_hello(&self, ahead: &[Request]) {
        let mut bytes = Vec::new();
        put_u64(&mut bytes, CLIENT_MAGIC);
        put_u64(&mut bytes, Version::NEWEST.number());
        ahead.iter().for_each(|request| request.put(&mut bytes));
        let _ = self.queue.send(bytes);
    }

    pub(super) fn send(&self, request: &Request) {
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        self.send_bytes(bytes);
    }

    pub(super) fn send_bytes(&self, bytes: Vec<u8>) {
        let _ = self.queue.send(bytes);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.task.abort();
    }
}
