//! The engine as a process, and what people do with those that run.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::{Outcome, configuration, interrupted, load};
use crate::cli::Cli;
use crate::commands::engine;
use crate::engine::{Messages, Setting, serve};
use crate::front;
use crate::hint::Hint;
use crate::ipc::{Client, Identity, SocketId, SocketPath, own_socket};
use crate::report;

/// Runs an engine: on the listening socket that is its standard input (whoever starts it made it),
/// else on one of its own.
pub(super) async fn run(cli: &Cli) -> Outcome {
    // Whatever ends the terminal or the process group of the caller is not meant for this one.
    // Refused where it leads a group already, which is as good.
    let _ = rustix::process::setsid();
    // An engine is for all: what one client chose for itself has no part in it.
    let config = configuration(cli)?.without_client_agent();
    let identity = Identity::of_process(&config);
    let socket_path = SocketPath::of(&identity)?;
    let (listener, managed, socket) = match given()? {
        Some(listener) => {
            let ours = listener.local_addr()?.as_pathname() == Some(&socket_path.path());
            (listener, !ours, own_socket().or(socket_path.id()))
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
    let engine = engine(&config, Some(messages.clone()));
    let expected = config.identity();
    let cli = cli.clone();
    let stop = Arc::new(Notify::new());
    let told = stop.clone();
    tokio::spawn(async move {
        interrupted().await;
        told.notify_one();
    });
    let setting = Setting {
        identity,
        socket_path: (!managed).then_some(socket_path),
        socket,
        is_current: Box::new(move || {
            load(&cli).is_ok_and(|(config, _)| config.without_client_agent().identity() == expected)
        }),
        render: report::line,
        messages,
        stop,
    };
    Ok(serve(listener, engine, config, setting).await?)
}

/// The listening socket on standard input.
fn given() -> io::Result<Option<UnixListener>> {
    let stdin = io::stdin();
    let listens = rustix::net::sockopt::socket_acceptconn(stdin.as_fd());
    if !listens.unwrap_or(false) {
        return Ok(None);
    }
    Ok(Some(stdin.as_fd().try_clone_to_owned()?.into()))
}

/// A socket of its own, if there is no engine yet.
fn listen(socket_path: &SocketPath) -> Result<(UnixListener, Option<SocketId>), Box<dyn Hint>> {
    let lock = socket_path.try_lock()?;
    let path = socket_path.path();
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(format!("an engine runs already, on {}", path.display()).into());
    }
    socket_path.remove(socket_path.id(), &lock);
    let listener = UnixListener::bind(path)?;
    Ok((listener, socket_path.id()))
}

/// Ends all engines of this user.
pub(super) async fn stop() -> Outcome {
    for socket in SocketPath::all()? {
        match Client::stop(&socket).await {
            Ok(text) => say(&text).await?,
            Err(error) => log::debug!("{}: {error}", socket.display()),
        }
    }
    Ok(())
}

/// Prints how all engines of this user are.
pub(super) async fn status() -> Outcome {
    let mut all = Vec::new();
    for socket in SocketPath::all()? {
        match Client::status_of(&socket).await {
            Ok(text) => all.push(described(socket, &text)?),
            Err(error) => log::debug!("{}: {error}", socket.display()),
        }
    }
    say(&serde_json::to_string_pretty(&all)?).await
}

fn described(socket: PathBuf, status: &str) -> serde_json::Result<serde_json::Value> {
    let mut status: serde_json::Value = serde_json::from_str(status)?;
    if let Some(fields) = status.as_object_mut() {
        fields.insert("socket".to_owned(), socket.to_string_lossy().into());
    }
    Ok(status)
}

async fn say(text: &str) -> Outcome {
    let mut stdout = front::stdout();
    stdout.write_all(format!("{text}\n").as_bytes()).await?;
    Ok(stdout.flush().await?)
}
