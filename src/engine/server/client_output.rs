//! Frames and NARs to one client.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, broadcast};

use super::write_timeout::with_write_timeout;
use crate::engine::transfer_registry::CurrentHost;
use crate::ipc::Channel;
use crate::sys::pipes;
use crate::transfer::{NarSink, Piece};
use crate::wire::serve::engine::Frame;

/// Pieces of this size or more, in bytes, go through the pipe.
const MIN_PIPED: usize = 32 << 10;

/// Longest piece in a frame, in bytes.
const MAX_INLINE: usize = 256 << 10;

/// How much of the pipe stays free, in bytes: a piece may begin and end within a page.
const PIPE_SPARE: usize = 16 << 10;

/// How often the engine shows a waiting client that it is alive.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// The socket of one client. Writes whole frames only.
pub(super) struct ClientOutput {
    channel: Arc<Channel>,
    /// Held while frames are written, which may take as long as the client reads slowly. Pending messages go before
    /// every other frame: a client that has its answer may end without reading further.
    messages: Mutex<broadcast::Receiver<Frame>>,
    /// The client waits for a reply.
    pub(super) busy: AtomicBool,
}

impl ClientOutput {
    pub(super) fn new(channel: Arc<Channel>, messages: broadcast::Receiver<Frame>) -> Self {
        Self {
            channel,
            messages: Mutex::new(messages),
            busy: AtomicBool::new(false),
        }
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut messages = self.messages.lock().await;
        loop {
            match messages.try_recv() {
                Ok(message) => {
                    let mut out = Vec::new();
                    message.put(&mut out);
                    with_write_timeout(self.channel.send(&out)).await?;
                }
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return with_write_timeout(self.channel.send(bytes)).await,
            }
        }
    }

    pub(super) async fn frame(&self, frame: &Frame) -> io::Result<()> {
        let mut out = Vec::new();
        frame.put(&mut out);
        self.send(&out).await
    }

    /// Sends messages as they come, and heartbeats while the client waits, until the client is gone.
    pub(super) async fn send_messages(&self, mut messages: broadcast::Receiver<Frame>) {
        loop {
            let sent = tokio::select! {
                message = messages.recv() => match message {
                    Err(broadcast::error::RecvError::Closed) => return,
                    // Any write sends pending messages first.
                    _ => self.send(&[]).await,
                },
                () = tokio::time::sleep(HEARTBEAT_INTERVAL) => match self.busy.load(Ordering::Relaxed) {
                    true => self.frame(&Frame::Heartbeat).await,
                    false => continue,
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// The writing end of a pipe that a client has passed.
pub(super) struct NarPipe {
    sender: pipe::Sender,
    /// How many bytes may be in it before a frame announces them.
    max_unannounced: usize,
}

impl NarPipe {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let capacity = pipes::capacity(&fd)?;
        let sender = pipe::Sender::from_owned_fd(fd)?;
        Ok(Self {
            sender,
            max_unannounced: capacity.saturating_sub(PIPE_SPARE),
        })
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let len = with_write_timeout(self.sender.write(bytes)).await?;
            bytes = &bytes[len..];
        }
        Ok(())
    }
}

/// Sends one NAR.
pub(super) struct NarSender<'a> {
    out: &'a ClientOutput,
    pipe: Option<&'a mut NarPipe>,
    host: &'a CurrentHost,
    /// The verified rest, sent once the NAR is complete.
    held: Vec<Bytes>,
}

impl<'a> NarSender<'a> {
    pub(super) fn new(
        out: &'a ClientOutput,
        pipe: Option<&'a mut NarPipe>,
        host: &'a CurrentHost,
    ) -> Self {
        Self {
            out,
            pipe,
            host,
            held: Vec::new(),
        }
    }

    /// The pipe, if so many bytes should go through it.
    fn pipe_for(&mut self, len: usize) -> Option<&mut NarPipe> {
        let pipe = self.pipe.as_deref_mut()?;
        (MIN_PIPED..=pipe.max_unannounced)
            .contains(&len)
            .then_some(pipe)
    }

    /// Sends the rest of a NAR that is complete.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let len = held.iter().map(Bytes::len).sum();
        let mut out = Vec::new();
        if let Some(pipe) = self.pipe_for(len) {
            for bytes in &held {
                pipe.write_all(bytes).await?;
            }
            Frame::Last(len).put(&mut out);
            return self.out.send(&out).await;
        }
        for mut bytes in held {
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(MAX_INLINE));
                Frame::Inline(piece, None).put(&mut out);
                if out.len() > MAX_INLINE {
                    self.out.send(&out).await?;
                    out.clear();
                }
            }
        }
        Frame::Done.put(&mut out);
        self.out.send(&out).await
    }
}

#[async_trait]
impl NarSink for NarSender<'_> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        if let Some(host) = self.host.take_change() {
            self.out.frame(&Frame::Source(host)).await?;
        }
        let Piece { bytes, checkpoint } = piece;
        let Some(checkpoint) = checkpoint else {
            self.held.push(bytes);
            return Ok(());
        };
        let frame = match self.pipe_for(bytes.len()) {
            Some(pipe) => {
                pipe.write_all(&bytes).await?;
                Frame::Piped(bytes.len(), checkpoint)
            }
            None => Frame::Inline(bytes, Some(checkpoint)),
        };
        self.out.frame(&frame).await
    }
}
