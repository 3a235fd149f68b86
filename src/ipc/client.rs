//! The front end's side of a connection.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout_at};

use super::channel::Channel;
use super::connect::connect;
use super::{Identity, IpcError};
use crate::sys::pipes;
use crate::wire::put_u64;
use crate::wire::serve::engine::{
    EXTENSION, Frame, hello_number, put_attach, put_forget, put_push, put_status, put_stop,
    split_number,
};
use crate::wire::serve::{CLIENT_MAGIC, Request, SERVER_MAGIC, ServerHello, Version};

/// Requested capacity of the pipe for NARs, in bytes.
const PIPE_CAPACITY: usize = 1 << 20;

/// How long an engine may take to say hello. A new one reads its configuration first.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A front end that is attached to an engine.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    buf: BytesMut,
    /// Large pieces of NARs come through it.
    pipe: Option<pipe::Receiver>,
    /// How long the engine may be silent.
    silence_timeout: Duration,
}

impl Client {
    pub(super) async fn attach(
        stream: UnixStream,
        identity: &Identity,
        caller: u64,
        silence_timeout: Duration,
    ) -> Result<Self, IpcError> {
        let mut client = Self::new(stream, HELLO_TIMEOUT);
        let mut out = hello();
        put_attach(&mut out, identity.fingerprint(), caller);
        match new_pipe() {
            Ok((receiver, sender)) => {
                client.channel.send_with_fd(&out, sender.as_fd()).await?;
                client.pipe = Some(receiver);
            }
            // Large pieces then come through the socket.
            Err(_) => client.channel.send(&out).await?,
        }
        client.read_hello().await?;
        loop {
            match client.frame().await? {
                Frame::Attached => break,
                Frame::Refused(reason) => return Err(IpcError::Refused(reason)),
                _ => {}
            }
        }
        client.silence_timeout = silence_timeout;
        Ok(client)
    }

    fn new(stream: UnixStream, silence_timeout: Duration) -> Self {
        Self {
            channel: Channel::new(stream),
            buf: BytesMut::new(),
            pipe: None,
            silence_timeout,
        }
    }

    /// The status of the engine at a socket, as JSON.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer.
    pub async fn status_of(socket: &Path) -> Result<String, IpcError> {
        let mut out = hello();
        put_status(&mut out);
        Self::call_at(socket, &out).await.map(|(_, text)| text)
    }

    /// Ends the engine at a socket, and waits until it has ended. Returns its reply.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer.
    pub async fn stop(socket: &Path) -> Result<String, IpcError> {
        let mut out = hello();
        put_stop(&mut out);
        let (mut client, text) = Self::call_at(socket, &out).await?;
        while client.fill().await.is_ok() {}
        Ok(text)
    }

    /// Makes the engine at a socket forget what it remembers of `host`, or of all hosts.
    ///
    /// # Errors
    /// When it cannot be reached, is of a version that does not know this call, or does not answer.
    pub async fn forget(socket: &Path, host: Option<&str>) -> Result<String, IpcError> {
        let mut out = hello();
        put_forget(&mut out, host);
        Self::call_at(socket, &out).await.map(|(_, text)| text)
    }

    /// Tells the engine at a socket that something was added to the queue of paths to push.
    ///
    /// # Errors
    /// As [`Client::forget`].
    pub async fn push(socket: &Path, is_urgent: bool) -> Result<(), IpcError> {
        let mut out = hello();
        put_push(&mut out, is_urgent);
        Self::call_at(socket, &out).await.map(drop)
    }

    async fn call_at(socket: &Path, call: &[u8]) -> Result<(Self, String), IpcError> {
        let mut client = Self::new(connect(socket).await?, HELLO_TIMEOUT);
        client.channel.send(call).await?;
        client.read_hello().await?;
        loop {
            match client.frame().await? {
                Frame::Text(text) => return Ok((client, text)),
                Frame::Refused(reason) => return Err(IpcError::Refused(reason)),
                _ => {}
            }
        }
    }

    async fn read_hello(&mut self) -> Result<(), IpcError> {
        let mut hello = ServerHello::default();
        let number = loop {
            match hello.step(&mut self.buf)? {
                Some(number) => break number,
                None => self.fill().await?,
            }
        };
        let banner = hello.banner();
        if !banner.is_empty() || split_number(number).1 < EXTENSION {
            let expected = format!("{SERVER_MAGIC:#x} and extension {EXTENSION}");
            let got = format!("version {number:#x}");
            return Err(crate::wire::WireError::new("hello", expected, got).into());
        }
        Ok(())
    }

    /// Sends a request of the serve protocol.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn ask(&mut self, request: &Request) -> Result<(), IpcError> {
        let mut out = Vec::new();
        request.put(&mut out);
        Ok(self.channel.send(&out).await?)
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the engine is silent for too long, has ended or sends something wrong.
    pub async fn frame(&mut self) -> Result<Frame, IpcError> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buf)? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Bytes that were received and not decoded yet, for decoders of replies.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Waits until there is more in the buffer.
    ///
    /// # Errors
    /// When the engine is silent for too long, or has ended.
    pub async fn fill(&mut self) -> Result<(), IpcError> {
        let deadline = Instant::now() + self.silence_timeout;
        let received = timeout_at(deadline, self.channel.fill(&mut self.buf)).await;
        let silent = |_| IpcError::Silent(self.silence_timeout);
        match received.map_err(silent)?? {
            received if received.len == 0 => Err(IpcError::Closed),
            _ => Ok(()),
        }
    }

    /// The pipe that holds the bytes which a frame has announced.
    ///
    /// # Errors
    /// When there is none: then nothing can have been announced.
    pub fn pipe(&mut self) -> Result<&mut pipe::Receiver, IpcError> {
        self.pipe.as_mut().ok_or(IpcError::Closed)
    }
}

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, CLIENT_MAGIC);
    put_u64(&mut out, hello_number(Version::NEWEST, EXTENSION));
    out
}

fn new_pipe() -> io::Result<(pipe::Receiver, std::os::fd::OwnedFd)> {
    let (reader, writer) = pipes::with_capacity(PIPE_CAPACITY)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}
