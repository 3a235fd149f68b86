//! What the remote writes to stderr: its end is kept for messages, all of it goes to the debug log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// How much of it is kept.
const KEPT: usize = 8 << 10;

/// How long its end may lag behind the end of stdout.
const LAG: Duration = Duration::from_millis(500);

pub(super) struct Stderr {
    tail: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Stderr {
    pub(super) fn new(host: String, mut stream: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        let tail = Arc::new(Mutex::new(Vec::new()));
        let kept = tail.clone();
        let task = tokio::spawn(async move {
            let mut piece = [0; 1024];
            while let Ok(len @ 1..) = stream.read(&mut piece).await {
                for line in piece[..len]
                    .split(|b| *b == b'\n')
                    .filter(|l| !l.is_empty())
                {
                    log::debug!("{host}: {}", String::from_utf8_lossy(line));
                }
                // Held for a copy only, never over an await.
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..len]);
                let excess = kept.len().saturating_sub(KEPT);
                kept.drain(..excess);
            }
        });
        Self { tail, task }
    }

    /// What is kept so far, line breaks included, without other control characters.
    pub(super) fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        readable(&tail)
    }

    /// The same once the remote has closed it, which may take a moment after its stdout ended.
    pub(super) async fn tail_at_end(&mut self) -> String {
        let _ = tokio::time::timeout(LAG, &mut self.task).await;
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
pub(super) fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .collect()
}
