//! The write side of a serve connection: requests go out without waiting, acknowledgements come back in their order.

use tokio::time::Instant;

use super::Connection;
use super::handshake::{ConnectOptions, attempt, is_not_found, no_server};
use crate::config::host::Host;
use crate::model::StorePath;
use crate::remote::RemoteError;
use crate::remote::link::{ReadKind, Writer};
use crate::transport::{Program, Transport};
use crate::wire::WireError;
use crate::wire::serve::{Request, Version, take_acknowledgement};

/// What is being read while paths are on their way.
const DOING: &str = "an acknowledgement";

/// How many bytes may wait to be written to a host, for each connection. A pipe to ssh takes 64 KiB at a time.
const OUTGOING_MAX: usize = 1 << 20;

/// A serve loop that may write, after the handshake. It keeps what it was asked to lock from being collected for as long
/// as it runs. It is never used for anything else, and never again.
pub struct WriteConnection(Connection);

/// Connects to `host`, asks for its serve program with `--write`, and shakes hands. The requests `ahead` are written
/// behind our hello; their replies are pending on the connection.
///
/// # Errors
/// As [`connect`](super::connect).
pub async fn connect_for_writing(
    transport: &dyn Transport,
    host: &Host,
    options: &ConnectOptions<'_>,
    ahead: &[Request],
) -> Result<WriteConnection, RemoteError> {
    let deadline = Instant::now() + options.connect;
    let attempt = |program| attempt(transport, host, program, deadline, options, ahead);
    let mut program = match options.program.get() {
        Program::WithWriteInUsualPlaces => Program::WithWriteInUsualPlaces,
        _ => Program::WithWrite,
    };
    let mut result = attempt(program).await;
    // Its line was cut, or it was killed: that says nothing about the next one.
    if let Some((None, _)) = no_server(&result) {
        result = attempt(program).await;
    }
    if program == Program::WithWrite
        && let Some((status, stderr)) = no_server(&result)
        && is_not_found(status, stderr)
    {
        program = Program::WithWriteInUsualPlaces;
        result = attempt(program).await;
    }
    let connection = result?;
    options.program.record(program);
    Ok(WriteConnection(connection))
}

impl WriteConnection {
    /// The version both sides agreed on.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.version()
    }

    /// How quickly it has answered; what it printed before the handshake.
    pub(crate) fn connection(&self) -> &Connection {
        &self.0
    }

    /// Reads the reply to the [`Request::QueryValidPaths`] that was sent ahead: those of `paths` that the host has, in no
    /// particular order.
    ///
    /// # Errors
    /// As [`Connection::query_path_infos`].
    pub async fn finish_valid_paths(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, RemoteError> {
        self.0.finish_valid_paths(paths).await
    }

    /// The way out, and what comes back.
    #[must_use]
    pub fn split(self) -> (Writer, Acknowledgements) {
        (
            self.0.link.output.writer(OUTGOING_MAX),
            Acknowledgements(self.0),
        )
    }
}

/// The replies to write operations. Dropping it closes the connection: what has not come whole is not registered there.
pub struct Acknowledgements(Connection);

impl Acknowledgements {
    /// Waits for the next acknowledgement. Only while one is due: a host that neither takes bytes nor answers for as long
    /// as it may be silent has failed. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection ends, with what the host wrote to stderr; when it is silent, or sends something else.
    pub async fn next(&mut self) -> Result<(), RemoteError> {
        loop {
            match take_acknowledgement(self.0.link.input.buffer()) {
                Ok(Some(())) => {
                    self.0.link.finish_reply();
                    return Ok(());
                }
                Ok(None) => {}
                Err(source) => return Err(self.0.malformed(DOING, source)),
            }
            let written = self.0.link.output.written();
            let filled = self.0.link.fill(DOING, ReadKind::Reply).await;
            if let Err(error) = filled {
                let moves = self.0.link.output.written() != written;
                if !(error.is_silence() && moves) {
                    return Err(error);
                }
            }
        }
    }

    /// Returns when the connection ends although nothing is due, or something comes unasked. May be dropped and called
    /// again.
    pub async fn ended(&mut self) -> RemoteError {
        let began = Instant::now();
        match self.0.link.input.fill().await {
            Ok(1..) => {
                let error = WireError::new("acknowledgement", "none that is not due", "bytes");
                self.0.malformed(DOING, error)
            }
            Ok(0) => self.0.link.ended(DOING, began, None).await,
            Err(source) => self.0.link.ended(DOING, began, Some(source)).await,
        }
    }
}

/// The question which of `paths` are there, which keeps those that are from being collected.
pub fn lock_valid_paths(paths: &[StorePath]) -> Request {
    Request::QueryValidPaths {
        lock: true,
        substitute: false,
        paths: paths.to_vec(),
    }
}
