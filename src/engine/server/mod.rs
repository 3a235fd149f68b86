//! The engine as a process of its own: it accepts front ends on a socket, and ends when nobody uses it.
//!
//! | module | what it does |
//! | --- | --- |
//! | `context` | what all connections have in common; the status |
//! | `session` | one connection |
//! | `client_output` | frames and NARs to one client |
//! | `write_timeout` | how long a client may take to read |
//! | `messages` | messages for the users of all clients |

mod client_output;
mod context;
mod messages;
mod session;
mod write_timeout;

pub use context::ServerOptions;
pub use messages::Messages;

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::Engine;
use crate::ipc::{SocketId, SocketPath};
use crate::transport::openssh::sweep;
use crate::transport::runtime_dir::Environment;
use context::ServerContext;

/// How often the engine checks whether it is still needed.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// After this time without clients, idle remote processes are closed.
const CLOSE_CONNECTIONS_AFTER: Duration = Duration::from_secs(60);

/// How often files that ended connections have left are removed from the runtime folder.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How long to wait after accepting a connection failed (too many open files, say).
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves on `listener` until there has been no client and nothing to push for the idle timeout, until there is no client and
/// program or configuration have changed, or until it is told to stop.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: StdUnixListener,
    engine: Engine,
    options: ServerOptions,
) -> io::Result<Ended> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let context = Arc::new(ServerContext::new(engine, options));
    let sends = tokio::spawn(context.options.push_sender.clone().run());
    let ended = accept_until_unused(&context, &listener).await;
    sends.abort();
    context.engine.resolver.flush().await;
    Ok(ended)
}

/// Why an engine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// Nobody needed it, or program or configuration have changed.
    ByItself,
}

async fn accept_until_unused(context: &Arc<ServerContext>, listener: &UnixListener) -> Ended {
    let mut sessions = JoinSet::new();
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let context = context.clone();
                    sessions.spawn(async move {
                        if let Err(error) = session::run(stream, context).await {
                            log::debug!("a connection ended: {error}");
                        }
                    });
                }
                Err(error) => {
                    log::debug!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            Some(_) = sessions.join_next() => {}
            _ = check.tick() => context.callers.remove_gone(),
            _ = sweep.tick() => {
                drop(tokio::task::spawn_blocking(sweep_runtime_dir));
                let transfers = context.engine.transfers.clone();
                drop(tokio::spawn(async move { transfers.sweep().await }));
            }
            () = context.options.stop.notified() => {
                log::debug!("told to stop");
                remove_socket(context);
                return Ended::Told;
            }
        }
        if !sessions.is_empty() {
            continue;
        }
        if context.idle_time() >= CLOSE_CONNECTIONS_AFTER {
            let pool = context.engine.pool();
            pool.hosts().for_each(|host| pool.close_idle(host, 1));
        }
        if let Some(reason) = reason_to_end(context)
            && remove_socket(context)
        {
            log::debug!("ends: {reason}");
            return Ended::ByItself;
        }
    }
}

fn sweep_runtime_dir() {
    if let Ok(folder) = Environment::of_process(None).runtime_dir() {
        sweep(&folder);
    }
}

/// Why an engine without clients ends.
fn reason_to_end(context: &ServerContext) -> Option<&'static str> {
    let (options, idle) = (&context.options, context.idle_time());
    let is_outdated = || options.identity.is_outdated() || !(options.is_current)();
    if idle >= options.idle_timeout && !options.push_sender.has_work() {
        Some("nobody was there for long")
    } else if idle >= CHECK_INTERVAL && is_outdated() {
        Some("program or configuration have changed")
    } else if own_socket(context).is_some_and(|(path, socket)| path.id() != socket) {
        Some("the socket is gone")
    } else {
        None
    }
}

/// The path of the socket and which one it is, if it was made for this engine alone.
fn own_socket(context: &ServerContext) -> Option<(&SocketPath, Option<SocketId>)> {
    let path = context.options.socket_path.as_ref()?;
    Some((path, context.options.socket))
}

/// Removes the socket. `false` when another process is about to use it.
fn remove_socket(context: &ServerContext) -> bool {
    let Some((path, socket)) = own_socket(context) else {
        return true;
    };
    match path.try_lock() {
        // A client that connected just now finds the connection closed, and starts another engine.
        Ok(lock) => path.remove(socket, &lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
        // Without the folder there is no socket either.
        Err(_) => {}
    }
    true
}
