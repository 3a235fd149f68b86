//! The two directions of a link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::wire::put_u64;
use crate::wire::serve::{CLIENT_MAGIC, Request, Version};

/// Space for one read. A pipe gives at most 64 KiB at a time unless it was enlarged.
const READ_SIZE: usize = 256 << 10;

/// The least space left in a block that is still worth a read, in bytes. Less is given up, so this is also the
/// most that a block held by slices can waste.
const SPARE_MIN: usize = 32 << 10;

/// What comes from the remote.
pub(in crate::remote) struct Input {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buf: BytesMut,
}

impl Input {
    pub(in crate::remote) fn new(stream: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self {
            stream,
            buf: BytesMut::new(),
        }
    }

    pub(in crate::remote) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    pub(in crate::remote) fn peek(&self) -> &[u8] {
        &self.buf
    }

    pub(in crate::remote) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Reads once; 0 is the end of the stream.
    pub(in crate::remote) async fn fill(&mut self) -> std::io::Result<usize> {
        // Space of bytes that were taken and dropped is reused while it is still in the processor's cache.
        // While they are held (readahead), the block is used up before the next one is allocated: otherwise
        // the memory in use would be a multiple of the bytes in it.
        if !self.buf.try_reclaim(READ_SIZE) && self.buf.capacity() - self.buf.len() < SPARE_MIN {
            self.buf.reserve(READ_SIZE);
        }
        self.stream.read_buf(&mut self.buf).await
    }

    /// Whether a read would give bytes (or the end) at once.
    pub(in crate::remote) fn is_readable(&mut self) -> bool {
        use std::task::{Context, Poll, Waker};
        let mut byte = [0; 1];
        let mut read = tokio::io::ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let poll = std::pin::Pin::new(&mut self.stream).poll_read(&mut context, &mut read);
        !matches!(poll, Poll::Pending)
    }
}

/// What goes to the remote. A task of its own writes it, so that a remote that does not read before its reply
/// is taken cannot block us.
pub(in crate::remote) struct Output {
    queue: mpsc::UnboundedSender<Outgoing>,
    /// Bytes that the stream has taken.
    written: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What a client says first.
pub(in crate::remote) fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    put_u64(&mut bytes, CLIENT_MAGIC);
    put_u64(&mut bytes, Version::NEWEST.number());
    bytes
}

/// Bytes on their way out.
struct Outgoing {
    bytes: Bytes,
    /// Given back once they are written, where their number is bounded.
    _room: Option<OwnedSemaphorePermit>,
}

impl Output {
    pub(in crate::remote) fn new(mut stream: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        // Unbounded, but never long: requests are small, and few are in flight. What is long goes through a `Writer`.
        let (queue, mut requests) = mpsc::unbounded_channel::<Outgoing>();
        let written = Arc::<AtomicU64>::default();
        let counted = written.clone();
        let task = tokio::spawn(async move {
            while let Some(outgoing) = requests.recv().await {
                let bytes = &outgoing.bytes;
                // A failure shows as the end of the input.
                if stream.write_all(bytes).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        });
        Self {
            queue,
            written,
            task,
        }
    }

    /// A way in for many bytes: those that are not written yet are at most `room`.
    pub(in crate::remote) fn writer(&self, room: usize) -> Writer {
        Writer {
            queue: self.queue.clone(),
            room: Arc::new(Semaphore::new(room)),
            size: room,
            written: self.written.clone(),
        }
    }

    /// How many bytes the stream has taken so far.
    pub(in crate::remote) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The same to look at.
    pub(in crate::remote) fn counter(&self) -> Arc<AtomicU64> {
        self.written.clone()
    }

    /// Our hello and the first requests in one write, so that they fit into one packet.
    pub(in crate::remote) fn send_hello(&self, ahead: &[Request]) {
        let mut bytes = hello();
        ahead.iter().for_each(|request| request.put(&mut bytes));
        self.send_bytes(bytes);
    }

    pub(in crate::remote) fn send(&self, request: &Request) {
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        self.send_bytes(bytes);
    }

    pub(in crate::remote) fn send_bytes(&self, bytes: Vec<u8>) {
        let _ = self.queue.send(Outgoing {
            bytes: bytes.into(),
            _room: None,
        });
    }

    pub(in crate::remote) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

/// Writes many bytes to a remote, no faster than it takes them.
pub struct Writer {
    queue: mpsc::UnboundedSender<Outgoing>,
    room: Arc<Semaphore>,
    size: usize,
    written: Arc<AtomicU64>,
}

impl Writer {
    /// Sends bytes once there is room for them. `false` when the remote takes no more: reading from it tells why.
    pub async fn send(&self, bytes: Bytes) -> bool {
        // More than there can ever be room for waits until nothing else is on its way.
        let wanted = u32::try_from(bytes.len().min(self.size)).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().acquire_many_owned(wanted).await else {
            return false;
        };
        let outgoing = Outgoing {
            bytes,
            _room: Some(room),
        };
        self.queue.send(outgoing).is_ok()
    }

    /// How many bytes the remote's stream has taken so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// What comes is held, piece by piece; how many blocks of memory that takes.
    async fn blocks(total: usize, piece: usize) -> usize {
        let (mut remote, stream) = tokio::io::duplex(piece);
        let writer = tokio::spawn(async move { remote.write_all(&vec![1; total]).await });
        let mut input = Input::new(Box::new(stream));
        let mut held: Vec<Bytes> = Vec::new();
        while input.fill().await.unwrap() > 0 {
            held.push(input.buffer().split().freeze());
        }
        writer.await.unwrap().unwrap();
        assert_eq!(held.iter().map(Bytes::len).sum::<usize>(), total);
        let is_next = |pair: &[Bytes]| {
            let end = pair[0].as_ptr() as usize + pair[0].len();
            end == pair[1].as_ptr() as usize
        };
        1 + held.windows(2).filter(|pair| !is_next(pair)).count()
    }

    #[tokio::test]
    async fn held_bytes_take_little_more_memory_than_they_are() {
        let total = 4 << 20;
        for piece in [1 << 10, 48 << 10, 64 << 10, 1 << 20] {
            let blocks = blocks(total, piece).await;
            assert!(
                blocks <= total / (READ_SIZE - SPARE_MIN) + 1,
                "{piece}: {blocks}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_let_go_of_makes_room_again() {
        let (mut remote, stream) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move { remote.write_all(&vec![1; 4 << 20]).await });
        let mut input = Input::new(Box::new(stream));
        let mut locations = std::collections::BTreeSet::new();
        while input.fill().await.unwrap() > 0 {
            locations.insert(input.buffer().split().as_ptr() as usize / READ_SIZE);
        }
        assert!(locations.len() <= 2, "{locations:?}");
    }
}
