//! The engine's process.

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::http::HttpServer;
use super::{Outcome, configuration, inherited_socket, interrupted, load};
use crate::cli::Cli;
use crate::commands::engine;
use crate::engine::{Ended, Messages, PushSender, ServerOptions, serve};
use crate::folder::{Environment, Purpose};
use crate::hint::Hint;
use crate::ipc::{Identity, SocketId, SocketPath, own_socket};
use crate::report;

/// Runs an engine: on the listening socket that is its standard input, which the process that started it has made, or
/// else on a socket of its own.
pub(super) async fn run(cli: &Cli) -> Outcome {
    // Signals to the caller's terminal or process group are not meant for the engine. Fails if it leads a process group
    // already, which is as good.
    let _ = rustix::process::setsid();
    // An engine serves all clients: the agent of one of them has no part in it.
    let config = configuration(cli)?.without_client_agent();
    let identity = Identity::of_process(&config);
    let socket_path = SocketPath::of(&identity)?;
    let (listener, is_managed, socket) = match inherited_socket()?.map(UnixListener::from) {
        Some(listener) => {
            let is_ours = listener.local_addr()?.as_pathname() == Some(&socket_path.path());
            (listener, !is_ours, own_socket().or(socket_path.id()))
        }
        None => {
            let (listener, socket) = listen(&socket_path)?;
            (listener, false, socket)
        }
    };
    log::debug!(
        "engine {} serves on {}",
        std::process::id(),
        socket_path.path().display()
    );
    let messages = Messages::default();
    let mut engine = engine(&config, Some(messages.clone()));
    engine.keep_delivered();
    let http = HttpServer::of_settings(&config, &engine).unwrap_or_else(|error| {
        // Front ends need the engine all the same.
        report::warn(&*error);
        None
    });
    let serves_http = http.is_some();
    let http = http.map(|server| tokio::spawn(server.run()));
    let stop = Arc::new(Notify::new());
    let on_signal = stop.clone();
    tokio::spawn(async move {
        interrupted().await;
        on_signal.notify_one();
    });
    let state = Environment::of_process_for(Purpose::State);
    let push_sender = PushSender::new(&config, state);
    let (cli, expected) = (cli.clone(), config.identity());
    let options = ServerOptions {
        identity,
        socket_path: (!is_managed).then_some(socket_path),
        socket,
        idle_timeout: match serves_http {
            true => Duration::MAX,
            false => config.engine_idle_timeout,
        },
        is_current: Box::new(move || {
            load(&cli).is_ok_and(|(config, _)| config.without_client_agent().identity() == expected)
        }),
        render: report::line,
        messages,
        push_sender: push_sender.clone(),
        stop,
    };
    let ended = serve(listener, engine, options).await;
    if let Some(http) = http {
        // The next engine takes its port.
        http.abort();
        let _ = http.await;
    }
    if ended? == Ended::ByItself && (push_sender.has_work() || serves_http) {
        start_another();
    }
    Ok(())
}

/// Starts an engine with the program and the configuration as they are by now: what is queued to be pushed, and clients over
/// HTTP, must not wait for the next command.
fn start_another() {
    // Linux adds this to the path of a program whose file was replaced.
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    let program = program.strip_suffix(" (deleted)").unwrap_or(&program);
    let started = Command::new(program)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn();
    match started {
        Ok(child) => log::debug!("engine {} goes on", child.id()),
        Err(error) => log::debug!("no engine goes on: {program}: {error}"),
    }
}

/// Makes a socket, if no engine runs yet.
fn listen(socket_path: &SocketPath) -> Result<(UnixListener, Option<SocketId>), Box<dyn Hint>> {
    let lock = socket_path.try_lock()?;
    let path = socket_path.path();
    if UnixStream::connect(&path).is_ok() {
        return Err(format!("an engine runs already, on {}", path.display()).into());
    }
    socket_path.remove(socket_path.id(), &lock);
    let listener = UnixListener::bind(path)?;
    Ok((listener, socket_path.id()))
}
