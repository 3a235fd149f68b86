//! The way to a host: how far it is, how much it moves, and when it breaks.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};

/// How much may come at once on a link with a rate, in bytes.
const BURST: f64 = 65536.0;

/// Less than this is not worth a wake-up, in bytes.
const LEAST: f64 = 4096.0;

/// A link that all connections to a host share.
#[derive(Default)]
pub struct Link {
    /// What comes does so after this time.
    pub latency: Duration,
    /// Bytes a second; 0: as many as there are.
    pub rate: u64,
    /// Each time that so many bytes have come in all, every connection that there is ends.
    pub cuts: Vec<u64>,
    /// Bytes that have come.
    pub came: AtomicU64,
    /// Breaks so far.
    broken: AtomicUsize,
    /// What may come now, and since when.
    bucket: Mutex<Option<(f64, Instant)>>,
}

impl Link {
    pub fn far(latency: Duration) -> Self {
        Self {
            latency,
            ..Self::default()
        }
    }

    pub fn slow(rate: u64) -> Self {
        Self {
            rate,
            ..Self::default()
        }
    }

    pub fn cut(mut self, cuts: impl IntoIterator<Item = u64>) -> Self {
        self.cuts = cuts.into_iter().collect();
        self
    }

    /// How often it has broken.
    pub fn breaks(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }

    /// How many bytes may come now.
    fn tokens(&self) -> f64 {
        if self.rate == 0 {
            return f64::MAX;
        }
        let (mut bucket, now) = (self.bucket.lock().unwrap(), Instant::now());
        let (tokens, at) = bucket.get_or_insert((0.0, now));
        *tokens = (*tokens + (now - *at).as_secs_f64() * self.rate as f64).min(BURST);
        *at = now;
        *tokens
    }

    fn took(&self, bytes: u64) {
        if let Some((tokens, _)) = &mut *self.bucket.lock().unwrap() {
            *tokens -= bytes as f64;
        }
        let came = self.came.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let broken = self.broken.load(Ordering::SeqCst);
        if self.cuts.get(broken).is_some_and(|at| came >= *at) {
            self.broken.store(broken + 1, Ordering::SeqCst);
        }
    }
}

/// What comes over a link on one connection.
pub struct Linked {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    link: Arc<Link>,
    /// The breaks before this one was opened.
    age: usize,
    /// It has waited for what comes next.
    waited: bool,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Linked {
    pub fn new(stream: Box<dyn AsyncRead + Send + Unpin>, link: &Arc<Link>) -> Self {
        Self {
            stream,
            age: link.breaks(),
            link: link.clone(),
            waited: true,
            sleep: None,
        }
    }

    fn sleep(&mut self, time: Duration) {
        self.sleep = Some(Box::pin(tokio::time::sleep(time)));
    }
}

impl AsyncRead for Linked {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.link.breaks() != this.age {
                return Poll::Ready(Ok(()));
            }
            if let Some(sleep) = &mut this.sleep {
                std::task::ready!(sleep.as_mut().poll(context));
                this.sleep = None;
                this.waited = true;
            }
            if !this.waited && !this.link.latency.is_zero() {
                this.sleep(this.link.latency);
                continue;
            }
            let tokens = this.link.tokens();
            if tokens < LEAST {
                this.sleep(Duration::from_millis(10));
                continue;
            }
            let most = (tokens as usize).min(out.remaining());
            let mut room = ReadBuf::new(out.initialize_unfilled_to(most));
            let poll = Pin::new(&mut this.stream).poll_read(context, &mut room);
            if poll.is_pending() {
                this.waited = false;
                return poll;
            }
            let got = room.filled().len();
            out.advance(got);
            this.link.took(got as u64);
            return poll;
        }
    }
}
