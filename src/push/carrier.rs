//! What carries the operations of a lane to a host: a connection of its own, or blocks through a shell.

use bytes::Bytes;

use super::target::Target;
use crate::pool::{BlockLease, WriteLease, WriteReplies};
use crate::remote::{BlockWriter, Version, Writer};

/// The way out of a lane.
pub(super) enum Out {
    /// A connection: bytes go as they are.
    Plain(Writer),
    /// Blocks, which may be compressed where there is zstd.
    Blocks {
        writer: Box<BlockWriter>,
        has_zstd: bool,
    },
}

/// An open connection for a lane.
pub(super) struct Carrier {
    pub(super) out: Out,
    pub(super) replies: WriteReplies,
    pub(super) version: Version,
}

impl From<WriteLease> for Carrier {
    fn from(lease: WriteLease) -> Self {
        let version = lease.version();
        let (writer, replies) = lease.split();
        Self {
            out: Out::Plain(writer),
            replies,
            version,
        }
    }
}

impl Carrier {
    /// Of a connection that takes blocks and is expected to agree on that version.
    pub(super) fn of_blocks(lease: BlockLease, version: Version) -> Self {
        let has_zstd = lease.has_zstd();
        let (writer, replies) = lease.split();
        Self {
            out: Out::Blocks {
                writer: Box::new(writer),
                has_zstd,
            },
            replies,
            version,
        }
    }
}

impl Out {
    /// Sends bytes to `host`; `false` when it takes no more.
    pub(super) async fn send(&mut self, host: &Target, bytes: Bytes) -> bool {
        match self {
            Self::Plain(writer) => {
                host.count_wire(bytes.len() as u64);
                writer.send(bytes).await
            }
            Self::Blocks { writer, has_zstd } => {
                let compress = host.compress().filter(|_| *has_zstd);
                let count = |block| host.count_block(block);
                writer.send(&bytes, compress, count).await
            }
        }
    }

    /// Sends what is kept back. To be called before an acknowledgement is waited for.
    pub(super) async fn flush(&mut self, host: &Target) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Blocks { writer, has_zstd } => {
                let compress = host.compress().filter(|_| *has_zstd);
                let count = |block| host.count_block(block);
                writer.flush(compress, count).await
            }
        }
    }
}
