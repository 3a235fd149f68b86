//! What goes to one client.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, broadcast};
use tokio::time::timeout;

use super::board::Source;
use crate::ipc::Channel;
use crate::transfer::{NarSink, Piece};
use crate::wire::serve::engine::Frame;

/// Pieces from this size on, in bytes, go through the pipe.
const LARGE: usize = 32 << 10;

/// Longest piece beside the pipe, in bytes.
const INLINE: usize = 256 << 10;

/// How much of the pipe stays free, in bytes: a piece may begin and end within a page.
const SPARE: usize = 16 << 10;

/// How often a client that waits hears that the engine is alive.
const BEAT: Duration = Duration::from_millis(500);

/// How long a client may take nothing of what it asked for. Each holds a connection to a host
/// meanwhile, which others wait for. A front end goes on without the engine, from the same byte, when
/// its caller takes something again.
pub(super) const STUCK: Duration = Duration::from_secs(30);

/// A write to a client, unless that takes nothing for too long.
pub(super) async fn taken<T>(write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let taken = timeout(STUCK, write).await;
    taken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The way to one client: whole frames only.
pub(super) struct Out {
    channel: Arc<Channel>,
    /// Held while frames are written. What users should know goes before all else that is sent
    /// later: whoever has its answer may end, and would never read it.
    turn: Mutex<broadcast::Receiver<Frame>>,
    /// The client waits for something.
    pub(super) busy: AtomicBool,
}

impl Out {
    pub(super) fn new(channel: Arc<Channel>, messages: broadcast::Receiver<Frame>) -> Self {
        Self {
            channel,
            turn: Mutex::new(messages),
            busy: AtomicBool::new(false),
        }
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut messages = self.turn.lock().await;
        loop {
            match messages.try_recv() {
                Ok(message) => {
                    let mut out = Vec::new();
                    message.put(&mut out);
                    taken(self.channel.send(&out)).await?;
                }
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return taken(self.channel.send(bytes)).await,
            }
        }
    }

    pub(super) async fn frame(&self, frame: &Frame) -> io::Result<()> {
        let mut out = Vec::new();
        frame.put(&mut out);
        self.send(&out).await
    }

    /// Tells the client what the user should know, and that the engine is alive, until it is gone.
    pub(super) async fn chat(&self, mut messages: broadcast::Receiver<Frame>) {
        loop {
            let sent = tokio::select! {
                message = messages.recv() => match message {
                    Err(broadcast::error::RecvError::Closed) => return,
                    // It is said before whatever is sent.
                    _ => self.send(&[]).await,
                },
                () = tokio::time::sleep(BEAT) => match self.busy.load(Ordering::Relaxed) {
                    true => self.frame(&Frame::Beat).await,
                    false => continue,
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// The pipe that a client has brought.
pub(super) struct Pipe {
    sender: pipe::Sender,
    /// What may be in it before the client knows of it, in bytes.
    room: usize,
}

impl Pipe {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let capacity = rustix::pipe::fcntl_getpipe_size(fd.as_fd())?;
        let sender = pipe::Sender::from_owned_fd(fd)?;
        Ok(Self {
            sender,
            room: capacity.saturating_sub(SPARE),
        })
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let len = taken(self.sender.write(bytes)).await?;
            bytes = &bytes[len..];
        }
        Ok(())
    }
}

/// Sends one NAR.
pub(super) struct NarFrames<'a> {
    pub(super) out: &'a Out,
    pub(super) pipe: Option<&'a mut Pipe>,
    pub(super) source: &'a Source,
    /// What is verified already and goes out at the end.
    held: Vec<Bytes>,
}

impl<'a> NarFrames<'a> {
    pub(super) fn new(out: &'a Out, pipe: Option<&'a mut Pipe>, source: &'a Source) -> Self {
        Self {
            out,
            pipe,
            source,
            held: Vec::new(),
        }
    }

    /// The pipe, if so many bytes should go through it.
    fn pipe_for(&mut self, len: usize) -> Option<&mut Pipe> {
        let pipe = self.pipe.as_deref_mut()?;
        (LARGE..=pipe.room).contains(&len).then_some(pipe)
    }

    /// The NAR is complete.
    pub(super) async fn end(mut self) -> io::Result<()> {
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
                let piece = bytes.split_to(bytes.len().min(INLINE));
                Frame::Inline(piece, None).put(&mut out);
                if out.len() > INLINE {
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
impl NarSink for NarFrames<'_> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        if let Some(host) = self.source.news() {
            self.out.frame(&Frame::From(host)).await?;
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
