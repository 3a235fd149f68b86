//! The write side of a serve connection: requests go out without waiting, acknowledgements come back in their order.

use tokio::time::{Instant, timeout};

use super::Connection;
use super::handshake::{ConnectOptions, attempt, is_not_found, no_server};
use crate::config::host::Host;
use crate::model::StorePath;
use crate::remote::link::{DataChannels, EXIT_TIMEOUT, Link, ReadKind, Writer};
use crate::remote::{HANDSHAKE, RemoteError, RemoteErrorKind};
use crate::transport::{Program, Transport};
use crate::wire::WireError;
use crate::wire::serve::{Request, ServerHello, Version, take_acknowledgement};

/// What is being read while paths are on their way.
const DOING: &str = "an acknowledgement";

/// How many bytes may wait to be written to a host, for each connection. A pipe to ssh takes 64 KiB at a time.
pub(in crate::remote) const OUTGOING_MAX: usize = 1 << 20;

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
            Acknowledgements::of(self.0),
        )
    }
}

/// The replies to write operations. Dropping it closes the connection: what has not come whole is not registered there.
pub struct Acknowledgements {
    connection: Connection,
    /// Where the hello was written before the host's had come: what comes of it, as long as it has not.
    hello: Option<ServerHello>,
    /// The channels by which operations go out, where the connection itself carries none.
    data: DataChannels,
}

impl Acknowledgements {
    fn of(connection: Connection) -> Self {
        Self {
            connection,
            hello: None,
            data: DataChannels::default(),
        }
    }

    /// The replies on this link to what goes out in blocks. The host is expected to agree on that version.
    pub(in crate::remote) fn of_blocks(link: Link, data: DataChannels, version: Version) -> Self {
        Self {
            connection: Connection::new(link, version),
            hello: Some(ServerHello::default()),
            data,
        }
    }

    fn written(&self) -> u64 {
        self.connection.link.output.written() + self.data.written()
    }

    /// Takes the host's hello, where it is to come yet. Whether it has come.
    fn take_hello(&mut self) -> Result<bool, Box<RemoteError>> {
        let Some(hello) = &mut self.hello else {
            return Ok(true);
        };
        match hello.step(self.connection.link.input.buffer()) {
            Ok(None) => Ok(false),
            Ok(Some(theirs)) => {
                if Version::NEWEST.negotiate(theirs) != Some(self.connection.version()) {
                    let kind = RemoteErrorKind::Version(theirs);
                    return Err(Box::new(self.connection.link.error(kind)));
                }
                self.hello = None;
                Ok(true)
            }
            Err(source) => Err(Box::new(self.connection.malformed(HANDSHAKE, source))),
        }
    }

    /// Waits for the next acknowledgement. Only while one is due: a host that neither takes bytes nor answers for as long
    /// as it may be silent has failed. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection ends, with what the host wrote to stderr; when it is silent, or sends something else.
    pub async fn next(&mut self) -> Result<(), RemoteError> {
        loop {
            if self.take_hello().map_err(|error| *error)? {
                match take_acknowledgement(self.connection.link.input.buffer()) {
                    Ok(Some(())) => {
                        self.connection.link.finish_reply();
                        return Ok(());
                    }
                    Ok(None) => {}
                    Err(source) => return Err(self.connection.malformed(DOING, source)),
                }
            }
            let written = self.written();
            let filled = tokio::select! {
                biased;
                filled = self.connection.link.fill(DOING, ReadKind::Reply) => filled,
                error = self.data.ended() => return Err(self.data_ended(error).await),
            };
            if let Err(error) = filled {
                let moves = self.written() != written;
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
        loop {
            let filled = tokio::select! {
                biased;
                filled = self.connection.link.input.fill() => filled,
                error = self.data.ended() => return self.data_ended(error).await,
            };
            let link = &mut self.connection.link;
            match filled {
                Ok(1..) => {}
                end => return link.ended(DOING, began, end.err()).await,
            }
            match self.take_hello() {
                Ok(_) if self.connection.link.input.is_empty() => {}
                Ok(_) => {
                    let error = WireError::new("acknowledgement", "none that is not due", "bytes");
                    return self.connection.malformed(DOING, error);
                }
                Err(error) => return *error,
            }
        }
    }

    /// Why a channel ended by which operations go out: the host's program has ended as a rule, and tells.
    async fn data_ended(&mut self, error: RemoteError) -> RemoteError {
        let (link, began) = (&mut self.connection.link, Instant::now());
        let end = async { while let Ok(1..) = link.input.fill().await {} };
        match timeout(EXIT_TIMEOUT, end).await {
            Ok(()) => link.ended(DOING, began, None).await,
            Err(_) => error,
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
