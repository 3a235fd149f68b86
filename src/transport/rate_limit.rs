//! Limits how fast bytes come from hosts. What is not read stays in ssh's window, so that the sender waits: everything
//! above sees a slower line, and measures it as one.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Channel, Program, Transport, TransportError};
use crate::config::host::Host;

/// For how long of an unused rate bytes may come at once.
const BURST: Duration = Duration::from_millis(50);

/// The least that is read at once, in bytes: less is not worth a wake-up.
const MIN_PIECE: u64 = 4096;

/// A rate that several streams share. Pure: the time is an argument.
#[derive(Debug)]
struct RateLimit {
    /// Bytes a second.
    rate: u64,
    /// When all that was taken is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl RateLimit {
    fn new(rate: u64) -> Self {
        Self {
            rate,
            paid_at: Mutex::new(None),
        }
    }

    /// When the next bytes may be taken.
    fn ready_at(&self, now: Instant) -> Instant {
        self.paid_at.lock().unwrap_or(now).max(now)
    }

    /// How many bytes may be taken at once.
    fn piece(&self) -> usize {
        let piece = (self.rate as f64 * BURST.as_secs_f64()) as u64;
        usize::try_from(piece.max(MIN_PIECE)).unwrap_or(usize::MAX)
    }

    /// So many bytes were taken.
    fn took(&self, bytes: usize, now: Instant) {
        let mut paid_at = self.paid_at.lock();
        let from = paid_at
            .unwrap_or(now)
            .max(now.checked_sub(BURST).unwrap_or(now));
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate.max(1) as f64);
        *paid_at = Some(from + cost);
    }
}

/// A transport whose channels bring no more than so much.
pub struct LimitedTransport {
    inner: Arc<dyn Transport>,
    /// For all hosts together.
    all: Option<Arc<RateLimit>>,
    /// By the names of hosts whose URL has a limit.
    of_hosts: Mutex<HashMap<String, Arc<RateLimit>>>,
}

impl LimitedTransport {
    /// Limits what `inner` brings to `all` bytes a second from all hosts together, where that is not 0, and to the
    /// `limit-rate` of each host.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>, all: u64) -> Self {
        Self {
            inner,
            all: (all > 0).then(|| Arc::new(RateLimit::new(all))),
            of_hosts: Mutex::default(),
        }
    }

    fn limits(&self, host: &Host) -> Vec<Arc<RateLimit>> {
        let of_host = host.limit_rate.map(|rate| {
            let mut of_hosts = self.of_hosts.lock();
            let limit = of_hosts.entry(host.to_string());
            limit
                .or_insert_with(|| Arc::new(RateLimit::new(rate)))
                .clone()
        });
        of_host.into_iter().chain(self.all.clone()).collect()
    }
}

#[async_trait]
impl Transport for LimitedTransport {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        let mut channel = self.inner.open(host, program).await?;
        let limits = self.limits(host);
        if !limits.is_empty() {
            channel.stdout = Box::new(LimitedRead {
                stream: channel.stdout,
                limits,
                pause: None,
            });
        }
        Ok(channel)
    }
}

/// A stream that is read no faster than its limits allow.
struct LimitedRead {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    limits: Vec<Arc<RateLimit>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for LimitedRead {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(context));
                this.pause = None;
            }
            let now = Instant::now();
            // Others may have taken meanwhile.
            let ready_at = this.limits.iter().map(|limit| limit.ready_at(now)).max();
            match ready_at.filter(|at| *at > now) {
                Some(at) => this.pause = Some(Box::pin(sleep_until(at))),
                None => break,
            }
        }
        let piece = this.limits.iter().map(|limit| limit.piece()).min();
        let len = piece.unwrap_or(usize::MAX).min(out.remaining());
        // What another buffer has filled cannot be taken for filled here without unsafe code.
        let mut part = ReadBuf::new(out.initialize_unfilled_to(len));
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
        let filled = part.filled().len();
        out.advance(filled);
        let now = Instant::now();
        for limit in &this.limits {
            limit.took(filled, now);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn stream(limits: &[&Arc<RateLimit>]) -> LimitedRead {
        LimitedRead {
            stream: Box::new(tokio::io::repeat(7)),
            limits: limits.iter().map(|limit| (*limit).clone()).collect(),
            pause: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_a_rate() {
        let (all, own) = (
            Arc::new(RateLimit::new(1_000_000)),
            Arc::new(RateLimit::new(100_000)),
        );
        let began = Instant::now();
        let (mut free, mut slow) = (stream(&[&all]), stream(&[&own, &all]));
        let (mut much, mut little) = (vec![0; 900_000], vec![0; 100_000]);
        let (a, b) = tokio::join!(free.read_exact(&mut much), slow.read_exact(&mut little));
        a.unwrap();
        b.unwrap();
        let secs = began.elapsed().as_secs_f64();
        assert!((0.85..1.15).contains(&secs), "{secs}");
        assert!(much.iter().all(|byte| *byte == 7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_no_credit() {
        let limit = Arc::new(RateLimit::new(10_000));
        let mut stream = stream(&[&limit]);
        let mut bytes = vec![0; 20_000];
        stream.read_exact(&mut bytes[..1]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        stream.read_exact(&mut bytes).await.unwrap();
        let secs = began.elapsed().as_secs_f64();
        assert!(secs > 1.4, "{secs}");
    }
}
