//! The engine as a process of its own: it accepts front ends, and ends when nobody needs it.

use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Engine;
use super::board::Board;
use super::callers::Callers;
use super::messages::Messages;
use super::session;
use crate::config::Config;
use crate::hint::Hint;
use crate::ipc::{Identity, SocketId, SocketPath};
use crate::transport::openssh::sweep;
use crate::transport::runtime_dir::Environment;

/// How often is looked whether anything has changed.
const TICK: Duration = Duration::from_secs(2);

/// Once nobody was there for so long, hosts are spared the processes that are not needed.
const CALM: Duration = Duration::from_secs(60);

/// How often the runtime folder is rid of what connections have left that are gone.
const SWEEP: Duration = Duration::from_secs(60);

/// How long accepting rests after it failed (too many open files, say).
const PAUSE: Duration = Duration::from_millis(100);

/// What an engine needs to know about itself.
pub struct Setting {
    /// Its program and configuration.
    pub identity: Identity,
    /// Where its socket is, when it has been made for it alone.
    pub socket_path: Option<SocketPath>,
    /// Which socket there is its own.
    pub socket: Option<SocketId>,
    /// Whether its configuration is still what its files say.
    pub is_current: Box<dyn Fn() -> bool + Send + Sync>,
    /// An error as a line for people.
    pub render: fn(&(dyn Hint + 'static)) -> String,
    /// What users should know comes from here.
    pub messages: Messages,
    /// Ends it when it is told.
    pub stop: Arc<Notify>,
}

pub(super) struct Server {
    pub(super) engine: Engine,
    pub(super) callers: Arc<Callers>,
    pub(super) board: Arc<Board>,
    pub(super) messages: Messages,
    pub(super) stop: Arc<Notify>,
    pub(super) render: fn(&(dyn Hint + 'static)) -> String,
    setting: Setting,
    config: Config,
    began: Instant,
    /// Since when nobody has needed it, if nobody does.
    idle_since: Mutex<Instant>,
}

/// Somebody needs the engine. Who only asks how it is does not: else whoever watches it would keep
/// it alive.
pub(super) struct Need(Arc<Server>);

impl Drop for Need {
    fn drop(&mut self) {
        *self.0.idle_since() = Instant::now();
    }
}

/// Serves on `listener` until nobody has been there for `engine-idle-timeout`, until nobody is there
/// and program or configuration have changed, or until it is told to stop.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: StdUnixListener,
    engine: Engine,
    config: Config,
    setting: Setting,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let server = Arc::new(Server {
        callers: Arc::new(Callers::new(engine.transfers.clone())),
        engine,
        board: Arc::default(),
        messages: setting.messages.clone(),
        stop: setting.stop.clone(),
        render: setting.render,
        setting,
        config,
        began: Instant::now(),
        idle_since: Mutex::new(Instant::now()),
    });
    server.run(&listener).await;
    server.engine.resolver.flush().await;
    Ok(())
}

impl Server {
    async fn run(self: &Arc<Self>, listener: &UnixListener) {
        let mut sessions = JoinSet::new();
        let socket = self
            .setting
            .socket_path
            .as_ref()
            .map(|_| self.setting.socket);
        let mut tick = tokio::time::interval(TICK);
        let mut tidy = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let server = self.clone();
                        sessions.spawn(async move {
                            if let Err(error) = session::run(stream, server).await {
                                log::debug!("a connection ended: {error}");
                            }
                        });
                    }
                    Err(error) => {
                        log::debug!("cannot accept a connection: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = sessions.join_next() => {}
                _ = tick.tick() => self.callers.tidy(),
                _ = tidy.tick() => drop(tokio::task::spawn_blocking(|| {
                    if let Ok(folder) = Environment::of_process(None).runtime_dir() {
                        sweep(&folder);
                    }
                })),
                () = self.stop.notified() => {
                    log::debug!("told to stop");
                    self.close(socket.flatten());
                    return;
                }
            }
            if !sessions.is_empty() {
                continue;
            }
            let idle = self.idle_since().elapsed();
            if idle >= CALM {
                let pool = &self.engine.pool;
                pool.hosts().for_each(|host| pool.close_idle(host, 1));
            }
            let reason = if idle >= self.config.engine_idle_timeout {
                "nobody was there for long"
            } else if idle >= TICK && self.is_outdated() {
                "program or configuration have changed"
            } else if socket.is_some_and(|socket| self.socket_now() != socket) {
                "the socket is gone"
            } else {
                continue;
            };
            if self.close(socket.flatten()) {
                log::debug!("ends: {reason}");
                return;
            }
        }
    }

    fn idle_since(&self) -> MutexGuard<'_, Instant> {
        self.idle_since.lock()
    }

    /// To be held by whoever needs the engine.
    pub(super) fn need(self: &Arc<Self>) -> Need {
        Need(self.clone())
    }

    fn socket_now(&self) -> Option<SocketId> {
        self.setting.socket_path.as_ref().and_then(SocketPath::id)
    }

    fn is_outdated(&self) -> bool {
        self.setting.identity.is_outdated() || !(self.setting.is_current)()
    }

    /// Takes the socket away. `false` when somebody is about to use it.
    fn close(&self, socket: Option<SocketId>) -> bool {
        let Some(socket_path) = &self.setting.socket_path else {
            return true;
        };
        match socket_path.try_lock() {
            // Whoever connected just now finds the connection closed, and starts another engine.
            Ok(lock) => socket_path.remove(socket, &lock),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // Without the folder there is no socket either.
            Err(_) => {}
        }
        true
    }

    /// Why a client is not served.
    pub(super) fn refuses(&self, fingerprint: &str) -> Option<String> {
        let same = fingerprint == self.setting.identity.fingerprint();
        (!same).then(|| "it runs another version or with another configuration".to_owned())
    }

    /// How the engine is, for people and programs.
    pub(super) fn status(&self) -> Value {
        let (connections, callers) = self.callers.count();
        let (used, total) = self.engine.transfers.memory();
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "fingerprint": self.setting.identity.fingerprint(),
            "upSeconds": self.began.elapsed().as_secs(),
            "clients": connections,
            "callers": callers,
            "hosts": self.engine.hosts(),
            "transfers": self.board.running(),
            "delivered": self.board.delivered(),
            "answers": self.engine.answers(),
            "readaheadBytes": used,
            "readaheadLimit": total,
            "residentBytes": resident(),
        })
    }
}

/// Memory of this process in bytes (`VmRSS`, proc(5)), where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
