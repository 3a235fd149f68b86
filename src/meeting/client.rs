//! The front end's side of a connection.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use rustix::pipe::PipeFlags;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout_at};

use super::channel::Channel;
use super::start::connect;
use super::{Identity, MeetingError};
use crate::wire::put_u64;
use crate::wire::serve::engine::{
    EXTENSION, Frame, hello_number, put_attach, put_forget, put_status, put_stop, split_number,
};
use crate::wire::serve::{CLIENT_MAGIC, Request, SERVER_MAGIC, ServerHello, Version};

/// How large the pipe for NARs is asked for, in bytes.
const PIPE: usize = 1 << 20;

/// How long an engine may take to say hello. One that has just been started reads its configuration
/// first.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// A front end that is attached to an engine.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    buf: BytesMut,
    /// Where large pieces of NARs come from.
    pipe: Option<pipe::Receiver>,
    /// How long the engine may be silent.
    patience: Duration,
}

impl Client {
    pub(super) async fn attach(
        stream: UnixStream,
        identity: &Identity,
        caller: u64,
        patience: Duration,
    ) -> Result<Self, MeetingError> {
        let mut client = Self::new(stream, HELLO_WITHIN);
        let mut out = hello();
        put_attach(&mut out, identity.fingerprint(), caller);
        match new_pipe() {
            Ok((receiver, sender)) => {
                client.channel.send_with(&out, sender.as_fd()).await?;
                client.pipe = Some(receiver);
            }
            // Large pieces come with the others then.
            Err(_) => client.channel.send(&out).await?,
        }
        client.read_hello().await?;
        loop {
            match client.frame().await? {
                Frame::Attached => break,
                Frame::Refused(reason) => return Err(MeetingError::Refused(reason)),
                _ => {}
            }
        }
        client.patience = patience;
        Ok(client)
    }

    fn new(stream: UnixStream, patience: Duration) -> Self {
        Self {
            channel: Channel::new(stream),
            buf: BytesMut::new(),
            pipe: None,
            patience,
        }
    }

    /// Asks the engine at a socket how it is. Gives JSON.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer.
    pub async fn status_of(socket: &Path) -> Result<String, MeetingError> {
        let mut out = hello();
        put_status(&mut out);
        Self::ask_at(socket, &out).await.map(|(_, text)| text)
    }

    /// Ends the engine at a socket, and waits until it has ended. Gives what it said.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer.
    pub async fn stop(socket: &Path) -> Result<String, MeetingError> {
        let mut out = hello();
        put_stop(&mut out);
        let (mut client, text) = Self::ask_at(socket, &out).await?;
        while client.fill().await.is_ok() {}
        Ok(text)
    }

    /// Has the engine at a socket forget what it remembers of the host that `host` names, or of all.
    ///
    /// # Errors
    /// When it cannot be reached, is of a version that knows nothing of this, or does not answer.
    pub async fn forget(socket: &Path, host: Option<&str>) -> Result<String, MeetingError> {
        let mut out = hello();
        put_forget(&mut out, host);
        Self::ask_at(socket, &out).await.map(|(_, text)| text)
    }

    async fn ask_at(socket: &Path, call: &[u8]) -> Result<(Self, String), MeetingError> {
        let mut client = Self::new(connect(socket).await?, HELLO_WITHIN);
        client.channel.send(call).await?;
        client.read_hello().await?;
        loop {
            match client.frame().await? {
                Frame::Text(text) => return Ok((client, text)),
                Frame::Refused(reason) => return Err(MeetingError::Refused(reason)),
                _ => {}
            }
        }
    }

    async fn read_hello(&mut self) -> Result<(), MeetingError> {
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
    pub async fn ask(&mut self, request: &Request) -> Result<(), MeetingError> {
        let mut out = Vec::new();
        request.put(&mut out);
        Ok(self.channel.send(&out).await?)
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the engine is silent for too long, has ended or sends something wrong.
    pub async fn frame(&mut self) -> Result<Frame, MeetingError> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buf)? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// What came and was not taken, for decoders of replies.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Waits until there is more in the buffer.
    ///
    /// # Errors
    /// When the engine is silent for too long, or has ended.
    pub async fn fill(&mut self) -> Result<(), MeetingError> {
        let deadline = Instant::now() + self.patience;
        let incoming = timeout_at(deadline, self.channel.fill(&mut self.buf)).await;
        let silent = |_| MeetingError::Silent(self.patience);
        match incoming.map_err(silent)?? {
            incoming if incoming.len == 0 => Err(MeetingError::Gone),
            _ => Ok(()),
        }
    }

    /// The pipe, for moving bytes that a frame has announced.
    ///
    /// # Errors
    /// When there is none, so that nothing can have been announced.
    pub fn pipe(&mut self) -> Result<&mut pipe::Receiver, MeetingError> {
        self.pipe.as_mut().ok_or(MeetingError::Gone)
    }
}

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, CLIENT_MAGIC);
    put_u64(&mut out, hello_number(Version::NEWEST, EXTENSION));
    out
}

fn new_pipe() -> io::Result<(pipe::Receiver, std::os::fd::OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Refused where the system's limit is lower, which costs speed alone.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE);
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}
