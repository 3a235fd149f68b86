//! The way between here and a host: one rate and one latency for all channels, as one ssh connection has them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// What ssh lets one channel have on its way, in bytes.
pub const WINDOW: usize = 2 << 20;

/// How far ahead of the line a sender may be.
const AHEAD: Duration = Duration::from_millis(2);

/// The line of one host.
pub struct Link {
    /// Bytes a second.
    rate: u64,
    pub latency: Duration,
    /// When nothing passes.
    stalls: Vec<(Instant, Instant)>,
    /// When the line is free again; senders get it in turn.
    free_at: tokio::sync::Mutex<Instant>,
}

impl Link {
    pub fn new(rate: u64, latency: Duration, stalls: Vec<(Instant, Instant)>) -> Self {
        Self {
            rate,
            latency,
            stalls,
            free_at: tokio::sync::Mutex::new(Instant::now()),
        }
    }

    /// How much is put on the line at once: little enough that channels share it evenly.
    pub fn chunk(&self) -> usize {
        usize::try_from(self.rate / 50)
            .expect("a size")
            .clamp(4 << 10, 64 << 10)
    }

    /// Waits for the line, and tells when so many bytes will have arrived at the other end.
    pub async fn carry(&self, len: usize) -> Instant {
        let mut free_at = self.free_at.lock().await;
        let now = Instant::now();
        if *free_at > now + AHEAD {
            sleep_until(*free_at - AHEAD).await;
        }
        let mut start = (*free_at).max(Instant::now());
        for (from, to) in &self.stalls {
            if (*from..*to).contains(&start) {
                start = *to;
            }
        }
        *free_at = start + Duration::from_secs_f64(len as f64 / self.rate as f64);
        *free_at + self.latency
    }
}

/// Nobody is at the other end any more.
#[derive(Debug)]
pub struct Gone;

/// One direction of a channel.
#[derive(Clone)]
pub struct Pipe(Arc<Mutex<Flow>>);

struct Flow {
    latency: Duration,
    /// What is on its way, and when it arrives.
    queue: VecDeque<(Instant, Bytes)>,
    /// How much has been sent and not been acknowledged.
    in_flight: usize,
    acknowledged: VecDeque<(Instant, usize)>,
    /// When the sender's end arrives.
    end: Option<Instant>,
    /// The line broke: nothing more arrives.
    is_cut: bool,
    /// The line went dead, and nobody knows.
    is_silent: bool,
    /// The receiver went away.
    is_unread: bool,
    waker: Option<Waker>,
    /// For the sender.
    room: Arc<Notify>,
}

impl Pipe {
    pub fn new(latency: Duration) -> Self {
        Self(Arc::new(Mutex::new(Flow {
            latency,
            queue: VecDeque::new(),
            in_flight: 0,
            acknowledged: VecDeque::new(),
            end: None,
            is_cut: false,
            is_silent: false,
            is_unread: false,
            waker: None,
            room: Arc::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.0.lock().expect("no test panics in there")
    }

    /// Puts bytes on their way that arrive then.
    pub fn push(&self, due: Instant, bytes: Bytes) -> Result<(), Gone> {
        let mut flow = self.lock();
        if flow.is_cut || flow.is_unread {
            return Err(Gone);
        }
        flow.in_flight += bytes.len();
        flow.queue.push_back((due, bytes));
        flow.wake();
        Ok(())
    }

    /// Waits until so many bytes more may be on their way.
    pub async fn room(&self, len: usize) -> Result<(), Gone> {
        loop {
            let (next, room) = {
                let mut flow = self.lock();
                if flow.is_cut || flow.is_unread {
                    return Err(Gone);
                }
                let now = Instant::now();
                while flow
                    .acknowledged
                    .front()
                    .is_some_and(|(due, _)| *due <= now)
                {
                    let (_, len) = flow.acknowledged.pop_front().expect("looked at");
                    flow.in_flight -= len;
                }
                // Nothing is acknowledged over a dead line: a sender waits, and sends nothing in vain.
                if flow.in_flight + len <= WINDOW && !flow.is_silent {
                    return Ok(());
                }
                let next = flow.acknowledged.front().map(|(due, _)| *due);
                let next = next.filter(|_| !flow.is_silent);
                (next, flow.room.clone())
            };
            match next {
                Some(due) => sleep_until(due).await,
                None => room.notified().await,
            }
        }
    }

    /// The sender is done.
    pub fn end(&self, due: Instant) {
        let mut flow = self.lock();
        flow.end.get_or_insert(due);
        flow.wake();
    }

    /// The line breaks, and both ends learn of it.
    pub fn cut(&self) {
        let mut flow = self.lock();
        flow.is_cut = true;
        flow.queue.clear();
        flow.wake();
        flow.room.notify_one();
    }

    /// The line is dead from now on, and neither end learns of it.
    pub fn fall_silent(&self) {
        self.lock().is_silent = true;
    }

    /// What has not been read yet, in bytes.
    pub fn unread(&self) -> u64 {
        let flow = self.lock();
        flow.queue.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    pub fn is_cut(&self) -> bool {
        self.lock().is_cut
    }
}

impl Flow {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Where the bytes of a pipe come out.
pub struct Reader {
    pipe: Pipe,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Reader {
    pub fn new(pipe: &Pipe) -> Self {
        let pipe = pipe.clone();
        Self { pipe, sleep: None }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let due = {
                let mut flow = this.pipe.lock();
                flow.waker = Some(cx.waker().clone());
                if flow.is_cut {
                    return Poll::Ready(Ok(()));
                }
                if flow.is_silent {
                    return Poll::Pending;
                }
                let now = Instant::now();
                let mut read = 0;
                while out.remaining() > 0
                    && let Some((due, bytes)) = flow.queue.front_mut()
                    && *due <= now
                {
                    let len = out.remaining().min(bytes.len());
                    out.put_slice(&bytes[..len]);
                    bytes.advance(len);
                    read += len;
                    if bytes.is_empty() {
                        flow.queue.pop_front();
                    }
                }
                if read > 0 {
                    let due = now + flow.latency;
                    flow.acknowledged.push_back((due, read));
                    flow.room.notify_one();
                    return Poll::Ready(Ok(()));
                }
                match (flow.queue.front(), flow.end) {
                    (Some((due, _)), _) => *due,
                    (None, Some(end)) if end <= now => return Poll::Ready(Ok(())),
                    (None, Some(end)) => end,
                    (None, None) => return Poll::Pending,
                }
            };
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut flow = self.pipe.lock();
        flow.is_unread = true;
        flow.queue.clear();
        flow.room.notify_one();
    }
}

/// Where small things go in that no rate is reckoned for: requests.
pub struct Writer(Pipe);

impl Writer {
    pub fn new(pipe: &Pipe) -> Self {
        Self(pipe.clone())
    }

    fn due(&self) -> Instant {
        Instant::now() + self.0.lock().latency
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = self.0.push(self.due(), Bytes::copy_from_slice(bytes));
        Poll::Ready(match sent {
            Ok(()) => Ok(bytes.len()),
            Err(Gone) => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.end(self.due());
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.end(self.due());
    }
}
