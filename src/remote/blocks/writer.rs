//! Cuts bytes into blocks and sends them, in turn over all channels.

use std::time::Instant;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::encoder::{self, Compress, Encoder};
use crate::remote::link::Writer;

/// How many bytes a block has, unless something waits for its end.
const BLOCK: usize = 1 << 20;

/// How many bytes are written at once, so that it shows while they move.
const PIECE: usize = 64 << 10;

/// Writes many bytes to a host in blocks, no faster than it takes them.
pub struct BlockWriter {
    channels: Vec<Writer>,
    /// Which of them gets the next block.
    next: usize,
    /// What has not been sent yet.
    rest: Vec<u8>,
    encoder: Encoder,
}

/// A block that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentBlock {
    /// How many bytes it holds.
    pub bytes: u64,
    /// How many were written for it.
    pub wire_bytes: u64,
    /// Whether they were compressed.
    pub is_compressed: bool,
}

impl BlockWriter {
    pub(super) fn new(channels: Vec<Writer>) -> Self {
        Self {
            channels,
            next: 0,
            rest: Vec::new(),
            encoder: Encoder::default(),
        }
    }

    /// Begins with these bytes.
    pub(super) fn begin(&mut self, bytes: Vec<u8>) {
        self.rest = bytes;
    }

    /// Sends bytes, once there are enough for a block; `sent` hears of each block. `false` when the host takes no more:
    /// reading from it tells why.
    pub async fn send(
        &mut self,
        mut bytes: &[u8],
        compress: Option<Compress>,
        mut sent: impl FnMut(SentBlock),
    ) -> bool {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() == BLOCK && !self.flush(compress, &mut sent).await {
                return false;
            }
        }
        true
    }

    /// Sends what is left. To be called before something is waited for that the host does once it has it.
    pub async fn flush(
        &mut self,
        compress: Option<Compress>,
        mut sent: impl FnMut(SentBlock),
    ) -> bool {
        if self.rest.is_empty() {
            return true;
        }
        let block = Bytes::from(std::mem::take(&mut self.rest));
        let frame = match compress {
            Some(how) if self.encoder.choose() => self.frame(&block, how).await,
            _ => None,
        };
        let is_compressed = frame.is_some();
        let len = block.len() as u64;
        let content = frame.unwrap_or(block);
        let kind = if is_compressed { 'z' } else { 'r' };
        let head = format!("{kind} {}\n", content.len());
        let wire_bytes = (head.len() + content.len()) as u64;
        if !self.write(head.into(), content).await {
            return false;
        }
        sent(SentBlock {
            bytes: len,
            wire_bytes,
            is_compressed,
        });
        true
    }

    /// The block compressed, if that is worth it.
    async fn frame(&mut self, block: &Bytes, how: Compress) -> Option<Bytes> {
        let (len, content) = (block.len(), block.clone());
        let encode = move || {
            let began = Instant::now();
            let frame = encoder::compress(&content, how.level)?;
            Some((frame, began.elapsed()))
        };
        let (frame, took) = spawn_blocking(encode).await.ok().flatten()?;
        let is_worth = self
            .encoder
            .record(how, len, frame.len(), took.as_secs_f64());
        is_worth.then(|| frame.into())
    }

    async fn write(&mut self, head: Bytes, mut content: Bytes) -> bool {
        let count = self.channels.len();
        let Some(channel) = self.channels.get(self.next % count.max(1)) else {
            return false;
        };
        self.next = (self.next + 1) % count;
        if !channel.send(head).await {
            return false;
        }
        while !content.is_empty() {
            let piece = content.split_to(content.len().min(PIECE));
            if !channel.send(piece).await {
                return false;
            }
        }
        true
    }
}
