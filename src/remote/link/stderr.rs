//! What the remote writes to stderr: its end is kept for messages, its beginning goes to the debug log.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How much of its end is kept, in bytes.
const TAIL_MAX: usize = 8 << 10;

/// How much of it goes to the debug log, in bytes.
const LOGGED_MAX: u64 = 64 << 10;

/// How much a remote may write, in bytes. After that nothing more is read, and the link is unusable.
pub(in crate::remote) const STDERR_MAX: u64 = 16 << 20;

/// How long after the end of stdout its end is waited for.
const END_TIMEOUT: Duration = Duration::from_millis(500);

pub(in crate::remote) struct Stderr {
    tail: Arc<Mutex<Vec<u8>>>,
    flood: Arc<Flood>,
    task: JoinHandle<()>,
}

/// More than [`STDERR_MAX`] came.
#[derive(Default)]
struct Flood {
    is_there: AtomicBool,
    comes: Notify,
}

impl Stderr {
    pub(in crate::remote) fn new(
        host: String,
        mut stream: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Self {
        let tail = Arc::new(Mutex::new(Vec::new()));
        let kept = tail.clone();
        let flood = Arc::<Flood>::default();
        let flooded = flood.clone();
        let task = tokio::spawn(async move {
            let mut piece = [0; 1024];
            let mut read = 0;
            while let Ok(len @ 1..) = stream.read(&mut piece).await {
                let before = read;
                read += len as u64;
                if read > STDERR_MAX {
                    flooded.is_there.store(true, Ordering::Release);
                    flooded.comes.notify_one();
                    return;
                }
                if before < LOGGED_MAX && read >= LOGGED_MAX {
                    log::debug!("{host}: what else it writes to stderr is left out");
                }
                let logged = if before < LOGGED_MAX { len } else { 0 };
                for line in piece[..logged]
                    .split(|b| *b == b'\n')
                    .filter(|l| !l.is_empty())
                {
                    log::debug!("{host}: {}", String::from_utf8_lossy(line));
                }

                let mut kept = kept.lock();
                kept.extend_from_slice(&piece[..len]);
                let excess = kept.len().saturating_sub(TAIL_MAX);
                kept.drain(..excess);
            }
        });
        Self { tail, flood, task }
    }

    /// Whether more came than is read.
    pub(in crate::remote) fn is_flooded(&self) -> bool {
        self.flood.is_there.load(Ordering::Acquire)
    }

    /// Waits until more has come than is read.
    pub(in crate::remote) async fn floods(&self) {
        self.flood.comes.notified().await;
    }

    /// What is kept so far, with line feeds and without other control characters.
    pub(in crate::remote) fn tail(&self) -> String {
        let tail = self.tail.lock();
        readable(&tail)
    }

    /// The same once the remote has closed it, which may take a moment after its stdout ended.
    pub(in crate::remote) async fn tail_at_end(&mut self) -> String {
        let _ = tokio::time::timeout(END_TIMEOUT, &mut self.task).await;
        self.tail()
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Text from a remote, with control characters but line feeds left out, so that it cannot drive a
/// terminal.
#[must_use]
pub fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .collect()
}
