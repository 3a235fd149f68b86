//! Another way to reach hosts than ssh: an implementation of the trait `Transport`.
//!
//! Here each "host" listens on a Unix socket, and on each connection a serve loop answers. Anything else that gives two byte
//! streams will do as well: a command in a container, a serial line, a tunnel of one's own.
//!
//! ```text
//! cargo run --example custom_transport
//! ```

mod demo;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use ssh_substituter::backend::LocalBackend;
use ssh_substituter::config::{Config, Host};
use ssh_substituter::engine::Engine;
use ssh_substituter::front;
use ssh_substituter::hint::Hint;
use ssh_substituter::local_store::LocalStore;
use ssh_substituter::progress::{Display, Mode, level};
use ssh_substituter::report;
use ssh_substituter::serve::{Output, serve};
use ssh_substituter::transport::{Channel, Child, Program, Transport, TransportError};
use ssh_substituter::wire::serve::Version;
use tokio::net::{UnixListener, UnixStream};

use demo::{Outcome, say};

/// Reaches the host NAME through the socket `FOLDER/NAME.socket`.
struct UnixSockets {
    folder: PathBuf,
}

#[async_trait]
impl Transport for UnixSockets {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        if program == Program::Shell {
            // Large paths come in parts where there is a shell. Here is none: a channel that has ended says so.
            return Ok(Channel {
                stdin: Box::new(tokio::io::sink()),
                stdout: Box::new(tokio::io::empty()),
                stderr: Box::new(tokio::io::empty()),
                child: Box::new(Remote),
                opened_in: None,
            });
        }
        let begun = Instant::now();
        let socket = self.folder.join(format!("{}.socket", host.name));
        let stream = UnixStream::connect(&socket).await;
        // The caller limits the time, and goes to another host after any error.
        let failed = |source| TransportError::local(host, "connect to its socket", source);
        let stream = stream.map_err(failed)?;
        let (stdout, stdin) = stream.into_split();
        Ok(Channel {
            // Dropping this half is the end of file at the other end.
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::empty()),
            child: Box::new(Remote),
            opened_in: Some(begun.elapsed()),
        })
    }
}

/// What runs at the other end. It ends with the connection; nobody knows its exit status.
struct Remote;

#[async_trait]
impl Child for Remote {
    async fn wait(self: Box<Self>) -> Option<i32> {
        None
    }
}

/// The other end: a serve loop for each connection.
async fn host(socket: &Path, store: PathBuf) -> Outcome {
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let store = store.clone();
            tokio::spawn(async move {
                let served = async {
                    let backend = LocalBackend::new(LocalStore::open(&store)?);
                    let (read, write) = stream.into_split();
                    serve(read, Output::new(write), &backend, Version::NEWEST).await?;
                    Ok::<(), Box<dyn Error + Send + Sync>>(())
                };
                if let Err(error) = served.await {
                    log::warn!("a serve loop ended: {error}");
                }
            });
        }
    });
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match example().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", report::message(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn example() -> Outcome {
    let display = Arc::new(Display::new(Mode::Auto));
    display.log_to_stderr(level(0, false));
    let folder = tempfile::tempdir()?;
    let paths = demo::paths(4 << 20);
    let store = folder.path().join("store");
    demo::make_store(&store, &paths)?;
    host(&folder.path().join("up.socket"), store).await?;

    // One of the two is not there: a warning, and the other one answers.
    let mut config = Config::without_hosts();
    config.hosts = vec![
        Host::parse("ssh://down?trusted=true")?,
        Host::parse("ssh://up?trusted=true")?,
    ];
    let transport = Arc::new(UnixSockets {
        folder: folder.path().to_owned(),
    });
    let notify = Arc::new(|error: &(dyn Hint + 'static)| report::warn(error));
    let engine = Engine::new(&config, transport, notify, None);
    let backend = engine.backend(Arc::new(engine.transfers.caller()), display);

    for demo in paths.iter().rev().take(3) {
        let dest = folder.path().join(demo.path.base_name());
        // What Nix 1.x would read of it.
        let mut answer = Vec::new();
        front::substitute(demo.path.as_str(), &dest, &mut answer, &backend).await?;
        let answer = String::from_utf8_lossy(&answer);
        say(&format!("{} {}", answer.trim(), demo.path));
    }
    Ok(())
}
