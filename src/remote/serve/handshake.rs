//! Connects to a host and shakes hands.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::Connection;
use super::program::{LearntProgram, is_a_daemon, may_be_a_daemon};
use crate::config::host::Host;
use crate::remote::link::{EXIT_TIMEOUT, Link, TRANSPORT_GRACE, is_dead, readable};
use crate::remote::{HANDSHAKE, RemoteError, RemoteErrorKind};
use crate::transport::{Program, Transport};
use crate::wire::serve::{Request, ServerHello, Version};

/// The exit status of a POSIX shell that finds no such program.
const NOT_FOUND_STATUS: i32 = 127;

/// How to connect.
#[derive(Debug)]
pub struct ConnectOptions<'a> {
    /// Limit for everything from here to the end of the handshake.
    pub connect: Duration,
    /// How long the remote may be silent later on while a reply is pending.
    pub silence: Duration,
    /// How the host's program has to be started. Updated here, and to be passed again for the same host.
    pub program: &'a LearntProgram,
}

/// Connects to `host` and shakes hands. The requests `ahead` are written right behind our hello,
/// since no version encodes them differently: that saves a round trip. Their replies are pending on
/// the connection that is returned, in this order and before anything that is asked on it.
///
/// A program that its shell does not find is looked for in the usual places. One that ends for
/// another reason is asked for once more with `--write`, as Nix does: some accounts allow exactly that.
///
/// # Errors
/// When the host cannot be reached, does not start a serve program, or speaks another protocol.
pub async fn connect(
    transport: &dyn Transport,
    host: &Host,
    options: &ConnectOptions<'_>,
    ahead: &[Request],
) -> Result<Connection, RemoteError> {
    let deadline = Instant::now() + options.connect;
    let attempt = |program| attempt(transport, host, program, deadline, options, ahead);
    let mut program = options.program.get();
    let mut result = attempt(program).await;
    // Its line was cut, or it was killed: that says nothing about the next one.
    if let Some((None, _)) = no_server(&result) {
        result = attempt(program).await;
    }
    if program == Program::WithWrite && no_server(&result).is_some() {
        // The account may have been changed since that was learnt.
        program = Program::AsConfigured;
        result = attempt(program).await;
    }
    if program == Program::AsConfigured
        && let Some((status, stderr)) = no_server(&result)
        && is_not_found(status, stderr)
    {
        program = Program::InUsualPlaces;
        result = attempt(program).await;
    }
    if let Some((Some(status), stderr)) = no_server(&result)
        && status != NOT_FOUND_STATUS
    {
        if may_be_a_daemon(stderr) && is_a_daemon(transport, host, deadline).await {
            return Err(RemoteError::new(host, RemoteErrorKind::OnlyDaemon));
        }
        if let Ok(connection) = attempt(Program::WithWrite).await {
            program = Program::WithWrite;
            result = Ok(connection);
        }
    }
    if result.is_ok() {
        options.program.record(program);
    }
    result
}

/// Exit status and stderr of a program that ended before the handshake.
pub(super) fn no_server(result: &Result<Connection, RemoteError>) -> Option<(Option<i32>, &str)> {
    let error = result.as_ref().err()?;
    match error.kind {
        RemoteErrorKind::NoServer { status, .. } => Some((status, &error.stderr)),
        _ => None,
    }
}

/// Whether a shell says that there is no such program. csh exits with 1 and only says so.
pub(super) fn is_not_found(status: Option<i32>, stderr: &str) -> bool {
    let stderr = stderr.to_lowercase();
    status == Some(NOT_FOUND_STATUS)
        || stderr.contains("command not found")
        || stderr.contains("unknown command")
}

pub(super) async fn attempt(
    transport: &dyn Transport,
    host: &Host,
    program: Program,
    deadline: Instant,
    options: &ConnectOptions<'_>,
    ahead: &[Request],
) -> Result<Connection, RemoteError> {
    let timed_out = || {
        let program = host.remote_program.join(" ");
        let after = options.connect;
        RemoteError::new(host, RemoteErrorKind::HandshakeTimedOut { program, after })
    };
    let channel = timeout_at(deadline + TRANSPORT_GRACE, transport.open(host, program))
        .await
        .map_err(|_| timed_out())??;
    let link = Link::new(host, channel, options.silence);
    let mut connection = Connection::new(link, Version::NEWEST);
    connection.pending_replies = 1 + ahead.len();
    ahead
        .iter()
        .for_each(|request| connection.record_request(request));
    connection.link.output.send_hello(ahead);
    let began = Instant::now();
    let mut hello = ServerHello::default();
    let theirs = timeout_at(deadline, read_hello(&mut connection, &mut hello)).await;
    let said = |connection: &Connection, stderr: String| {
        let printed = readable(hello.banner()) + &readable(connection.link.input.peek());
        if stderr.trim().is_empty() {
            printed
        } else {
            stderr
        }
    };
    match theirs {
        Ok(Ok(Some(theirs))) => {
            let unknown = || RemoteError::new(host, RemoteErrorKind::Version(theirs));
            connection.version = Version::NEWEST.negotiate(theirs).ok_or_else(unknown)?;
            connection.banner = hello.banner().to_vec();
            connection.pending_replies -= 1;
            connection.link.latency.record_handshake(began.elapsed());
            Ok(connection)
        }
        Ok(Ok(None)) => {
            // A dead link is no fault of the program.
            if is_dead(&connection.link.child.link_output()) {
                return Err(connection.link.ended(HANDSHAKE, began, None).await);
            }
            let stderr = connection.link.stderr.tail_at_end().await;
            let stderr = said(&connection, stderr);
            let status = timeout(EXIT_TIMEOUT, connection.link.child.wait())
                .await
                .ok()
                .flatten();
            let program = host.remote_program.join(" ");
            let kind = RemoteErrorKind::NoServer { program, status };
            Err(RemoteError::new(host, kind).with_stderr(stderr))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(timed_out().with_stderr(said(&connection, connection.link.stderr.tail()))),
    }
}

/// The number that the server gave as its version; `None` when its output ended before.
async fn read_hello(
    connection: &mut Connection,
    hello: &mut ServerHello,
) -> Result<Option<u64>, RemoteError> {
    loop {
        let step = hello.step(connection.link.input.buffer());
        match step {
            Ok(Some(theirs)) => return Ok(Some(theirs)),
            Ok(None) => {}
            Err(source) => return Err(connection.malformed(HANDSHAKE, source)),
        }
        // A link that breaks here means that the server did not start.
        if !matches!(connection.link.input.fill().await, Ok(1..)) {
            return Ok(None);
        }
    }
}
