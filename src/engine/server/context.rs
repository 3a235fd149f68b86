//! What all connections of an engine's process have in common.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::messages::Messages;
use crate::engine::{Callers, Engine, PushSender, TransferRegistry};
use crate::hint::Hint;
use crate::ipc::{Identity, SocketId, SocketPath};

/// What an engine's process is given.
pub struct ServerOptions {
    /// Its program and configuration.
    pub identity: Identity,
    /// The path of its socket, if the socket was made for it alone.
    pub socket_path: Option<SocketPath>,
    /// Which socket at that path is its own.
    pub socket: Option<SocketId>,
    /// How long it runs without clients.
    pub idle_timeout: Duration,
    /// Whether its configuration is still what the files say.
    pub is_current: Box<dyn Fn() -> bool + Send + Sync>,
    /// Makes a line for the user of an error.
    pub render: fn(&(dyn Hint + 'static)) -> String,
    /// Messages for the users of all clients.
    pub messages: Messages,
    /// Sends what is queued to be pushed.
    pub push_sender: Arc<PushSender>,
    /// Ends the process when notified.
    pub stop: Arc<Notify>,
}

/// The engine of this process, its clients and their transfers.
pub(super) struct ServerContext {
    pub(super) engine: Engine,
    pub(super) options: ServerOptions,
    pub(super) callers: Arc<Callers<u64>>,
    pub(super) transfers: Arc<TransferRegistry>,
    started: Instant,
    /// When the last client that used the engine went away.
    last_used: Mutex<Instant>,
}

/// A client that uses the engine. One that only asks for its status does not: a monitor would keep the engine running.
pub(super) struct InUse(Arc<ServerContext>);

impl Drop for InUse {
    fn drop(&mut self) {
        *self.0.last_used.lock() = Instant::now();
    }
}

impl ServerContext {
    pub(super) fn new(engine: Engine, options: ServerOptions) -> Self {
        Self {
            callers: Arc::new(Callers::new(engine.transfers.clone())),
            engine,
            options,
            transfers: Arc::default(),
            started: Instant::now(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// Marks the engine as in use until the guard is dropped.
    pub(super) fn mark_in_use(self: &Arc<Self>) -> InUse {
        InUse(self.clone())
    }

    /// How long ago the last client went away. Only meaningful while there is none.
    pub(super) fn idle_time(&self) -> Duration {
        self.last_used.lock().elapsed()
    }

    /// Why a client with this fingerprint is not served; `None` if it is.
    pub(super) fn refusal(&self, fingerprint: &str) -> Option<String> {
        let same = fingerprint == self.options.identity.fingerprint();
        (!same).then(|| "it runs another version or with another configuration".to_owned())
    }

    /// The status, as JSON for people and programs.
    pub(super) fn status(&self) -> Value {
        let (connections, callers) = self.callers.count();
        let (used, total) = self.engine.transfers.memory();
        let (on_disk, disk_total) = self.engine.transfers.on_disk();
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "fingerprint": self.options.identity.fingerprint(),
            "upSeconds": self.started.elapsed().as_secs(),
            "clients": connections,
            "callers": callers,
            "hosts": self.engine.hosts(),
            "transfers": self.transfers.running_as_json(),
            "delivered": self.transfers.delivered(),
            "answers": self.engine.answers(),
            "readaheadBytes": used,
            "readaheadLimit": total,
            "readaheadDiskBytes": on_disk,
            "readaheadDiskLimit": disk_total,
            "partialBytes": self.engine.transfers.kept(false),
            "push": self.options.push_sender.status(),
            "residentBytes": resident_bytes(),
        })
    }
}

/// Memory of this process (`VmRSS`, proc(5)); `None` where the system does not report it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
