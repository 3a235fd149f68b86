//! Whether an ssh master still responds.
//!
//! A master that is stopped (SIGSTOP, a debugger) or hangs keeps its sockets open: reads on its channels
//! block, and so does opening another one. ssh's keepalives are sent by the master itself, so nothing
//! times out. But a running master answers on its control socket within microseconds.
//!
//! Each master is probed on a control connection that is opened with its first channel: later, the path
//! of its socket may lead to another master.
//!
//! ```text
//! packet      = u32 length, body                     (big endian; PROTOCOL.mux of OpenSSH)
//! hello       = u32 0x00000001, u32 4, extensions    each side sends it first
//! alive check = u32 0x10000004, u32 request
//! alive       = u32 0x80000005, u32 request, u32 pid
//! ```

use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Master;
use crate::folder::SocketId;
use crate::transport::awake_timeout::timeout_awake;

/// A channel that has been silent for so long has its master probed.
pub(in crate::transport::openssh) const PROBE_AFTER_SILENCE: Duration = Duration::from_secs(5);

/// A channel that takes so long to open has its master probed.
pub(in crate::transport::openssh) const PROBE_WHILE_OPENING_AFTER: Duration =
    Duration::from_secs(2);

/// How long a master may take to answer: far longer than on a loaded machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// An answer that is younger than this stands: several channels share one probe.
const ANSWER_VALID_FOR: Duration = Duration::from_secs(1);

/// The longest packet that is read, in bytes; what comes is 12 bytes, and a hello with extensions.
const MAX_PACKET_LEN: u32 = 4 << 10;

const HELLO: u32 = 1;
const VERSION: u32 = 4;
const ALIVE_CHECK: u32 = 0x1000_0004;
const ALIVE: u32 = 0x8000_0005;

/// The probes of all masters that this process has channels on.
#[derive(Default)]
pub(in crate::transport::openssh) struct LivenessProbes {
    known: Mutex<HashMap<PathBuf, (SocketId, Weak<LivenessProbe>)>>,
}

impl LivenessProbes {
    /// The probe of the master that listens now; `None` when it cannot be connected to.
    pub(in crate::transport::openssh) async fn of(
        &self,
        master: &Master<'_>,
    ) -> Option<Arc<LivenessProbe>> {
        let (socket, id) = (master.socket(), master.socket_id()?);
        let known = |new: Option<&Arc<LivenessProbe>>| {
            let mut known = self.known.lock();
            known.retain(|_, (_, probe)| probe.strong_count() > 0);
            if let Some(new) = new {
                known.insert(socket.clone(), (id, Arc::downgrade(new)));
            }
            let same = known.get(&socket).filter(|(other, _)| *other == id);
            same.and_then(|(_, probe)| probe.upgrade())
        };
        if let Some(probe) = known(None) {
            return Some(probe);
        }
        let probe = Arc::new(LivenessProbe::new(&socket).await.ok()?);
        // Another one may have come in its place meanwhile.
        (master.socket_id() == Some(id)).then(|| known(Some(&probe)))?
    }
}

/// A connection to one master's control socket.
pub(in crate::transport::openssh) struct LivenessProbe {
    /// `None` once the master has closed it: it has ended, which its channels show.
    stream: tokio::sync::Mutex<Option<ControlStream>>,
    unresponsive: watch::Sender<bool>,
}

struct ControlStream {
    socket: UnixStream,
    requests: u32,
    answered: Option<Instant>,
}

impl LivenessProbe {
    /// Does not wait for the master: a connection is made by the system.
    async fn new(socket: &Path) -> io::Result<Self> {
        let connected = timeout_awake(ANSWER_TIMEOUT, UnixStream::connect(socket)).await;
        let socket = connected.ok_or(io::ErrorKind::TimedOut)??;
        Ok(Self {
            stream: tokio::sync::Mutex::new(Some(ControlStream {
                socket,
                requests: 0,
                answered: None,
            })),
            unresponsive: watch::Sender::new(false),
        })
    }

    /// Whether a probe has gone unanswered.
    pub(in crate::transport::openssh) fn is_unresponsive(&self) -> bool {
        *self.unresponsive.borrow()
    }

    /// Waits until the master leaves a probe unanswered; one is sent after each `pause`. Never returns
    /// when the master answers or has ended.
    pub(in crate::transport::openssh) async fn until_unresponsive(
        self: &Arc<Self>,
        pause: Duration,
    ) {
        let mut unresponsive = self.unresponsive.subscribe();
        loop {
            tokio::select! {
                _ = unresponsive.wait_for(|unresponsive| *unresponsive) => return,
                () = sleep(pause) => {}
            }
            let probe = self.clone();
            // A task of its own: an answer that is read in part would be the end of the connection.
            let asked = tokio::spawn(async move { probe.check_now().await }).await;
            if asked.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn check_now(&self) {
        let mut stream = self.stream.lock().await;
        let Some(open) = stream.as_mut().filter(|_| !self.is_unresponsive()) else {
            return;
        };
        let is_recent = |at: Instant| at.elapsed() < ANSWER_VALID_FOR;
        if open.answered.is_some_and(is_recent) {
            return;
        }
        match timeout_awake(ANSWER_TIMEOUT, open.send_alive_check()).await {
            Some(Ok(())) => open.answered = Some(Instant::now()),
            Some(Err(error)) => {
                log::debug!("an ssh master ended: {error}");
                *stream = None;
            }
            None => {
                self.unresponsive.send_replace(true);
            }
        }
    }
}

impl ControlStream {
    async fn send_alive_check(&mut self) -> io::Result<()> {
        if self.requests == 0 {
            self.send([HELLO, VERSION]).await?;
        }
        self.requests += 1;
        self.send([ALIVE_CHECK, self.requests]).await?;
        loop {
            let length = self.socket.read_u32().await?;
            if !(4..=MAX_PACKET_LEN).contains(&length) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut body = vec![0; length as usize];
            self.socket.read_exact(&mut body).await?;
            let words: Vec<u32> = body
                .chunks_exact(4)
                .map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
                .collect();
            if words.starts_with(&[ALIVE, self.requests]) {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, words: [u32; 2]) -> io::Result<()> {
        let words = std::iter::once(8).chain(words);
        let bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        self.socket.write_all(&bytes).await
    }
}
