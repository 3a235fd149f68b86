//! Whether a master is alive.
//!
//! A master that is stopped (SIGSTOP, a debugger), or hangs, keeps its sockets: reads on its channels
//! wait, and so does who asks it for another one. ssh's keepalives are the master's own business, so
//! nothing ever ends. But a living master answers on its control socket within microseconds.
//!
//! Each is asked on a connection of our own, which is made when its first channel is opened: the path
//! of its socket may lead to another master later.
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
use tokio::time::{Instant, sleep, timeout};

use super::master::{Master, SocketId};

/// How long nothing may come on a channel before its master is asked.
pub(super) const WHILE_READING: Duration = Duration::from_secs(5);

/// How long a channel may take to open before its master is asked.
pub(super) const WHILE_OPENING: Duration = Duration::from_secs(2);

/// How long a master may take to answer: far longer than on a loaded machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Who has answered so lately is not asked again.
const FRESH: Duration = Duration::from_secs(1);

/// The longest packet that is read, in bytes; what comes is 12 bytes, and a hello with extensions.
const PACKET_MAX: u32 = 4 << 10;

const HELLO: u32 = 1;
const VERSION: u32 = 4;
const ALIVE_CHECK: u32 = 0x1000_0004;
const ALIVE: u32 = 0x8000_0005;

/// The masters that this process has channels on.
#[derive(Default)]
pub(super) struct Pulses {
    known: Mutex<HashMap<PathBuf, (SocketId, Weak<Pulse>)>>,
}

impl Pulses {
    /// That of the master which is there now; `None` when it cannot be asked.
    pub(super) async fn of(&self, master: &Master<'_>) -> Option<Arc<Pulse>> {
        let (socket, id) = (master.socket(), master.socket_id()?);
        let known = |new: Option<&Arc<Pulse>>| {
            let mut known = self.known.lock();
            known.retain(|_, (_, pulse)| pulse.strong_count() > 0);
            if let Some(new) = new {
                known.insert(socket.clone(), (id, Arc::downgrade(new)));
            }
            let same = known.get(&socket).filter(|(other, _)| *other == id);
            same.and_then(|(_, pulse)| pulse.upgrade())
        };
        if let Some(pulse) = known(None) {
            return Some(pulse);
        }
        let pulse = Arc::new(Pulse::new(&socket).await.ok()?);
        // Another one may have come in its place meanwhile.
        (master.socket_id() == Some(id)).then(|| known(Some(&pulse)))?
    }
}

/// A connection to one master's control socket.
pub(super) struct Pulse {
    /// `None` once the master has closed it: it has ended, which its channels show.
    stream: tokio::sync::Mutex<Option<Stream>>,
    stopped: watch::Sender<bool>,
}

struct Stream {
    socket: UnixStream,
    requests: u32,
    answered: Option<Instant>,
}

impl Pulse {
    /// Does not wait for the master: a connection is made by the system.
    async fn new(socket: &Path) -> io::Result<Self> {
        let socket = timeout(ANSWERS_WITHIN, UnixStream::connect(socket)).await??;
        Ok(Self {
            stream: tokio::sync::Mutex::new(Some(Stream {
                socket,
                requests: 0,
                answered: None,
            })),
            stopped: watch::Sender::new(false),
        })
    }

    /// Whether the master has been found to answer nobody.
    pub(super) fn has_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits until the master turns out to answer nobody: it is asked each time that so long has
    /// passed. For ever when it answers, or has ended.
    pub(super) async fn stops(self: &Arc<Self>, pause: Duration) {
        let mut stopped = self.stopped.subscribe();
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = sleep(pause) => {}
            }
            let pulse = self.clone();
            // A task of its own: an answer that is read in part would be the end of the connection.
            let asked = tokio::spawn(async move { pulse.ask().await }).await;
            if asked.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn ask(&self) {
        let mut stream = self.stream.lock().await;
        let Some(open) = stream.as_mut().filter(|_| !self.has_stopped()) else {
            return;
        };
        let is_fresh = |at: Instant| at.elapsed() < FRESH;
        if open.answered.is_some_and(is_fresh) {
            return;
        }
        match timeout(ANSWERS_WITHIN, open.check()).await {
            Ok(Ok(())) => open.answered = Some(Instant::now()),
            Ok(Err(error)) => {
                log::debug!("an ssh master ended: {error}");
                *stream = None;
            }
            Err(_) => {
                self.stopped.send_replace(true);
            }
        }
    }
}

impl Stream {
    async fn check(&mut self) -> io::Result<()> {
        if self.requests == 0 {
            self.send([HELLO, VERSION]).await?;
        }
        self.requests += 1;
        self.send([ALIVE_CHECK, self.requests]).await?;
        loop {
            let length = self.socket.read_u32().await?;
            if !(4..=PACKET_MAX).contains(&length) {
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
