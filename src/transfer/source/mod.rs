//! The ways in which the bytes of a NAR come.
//!
//! A [`Source`] brings what is missing of one NAR, from the offset of the [`Verifier`] that it is given. All its bytes go
//! through that verifier, so that they may be passed on as they are. When it can bring no more, it says in a [`Stop`] why,
//! and the next source goes on from the same offset. A source chooses nothing and retries nothing on another host: that is
//! done by [`Fetch`](super::fetch::Fetch), which treats all sources alike.
//!
//! | source | brings |
//! | --- | --- |
//! | [`ReadaheadSource`] | what a worker requested before the caller did, or requests now |
//! | [`ChunkSource`] | ranges of a large NAR from several hosts and channels, put together |
//! | [`DeltaSource`] | what differs from a version that is here |
//! | [`RebuildSource`] | what is made from a version that is here alone |
//! | [`PartialSource`] | what an earlier command has received |
//! | [`PlainSource`] | the dump of one host, straight through |
//!
//! ```text
//!                    ┌── next ──┐
//!                    ▼          │ Step::Write: some bytes, more will follow
//!   created ──▶ delivering ─────┘
//!                    │
//!                    ├── Step::Complete: the last bytes, and the whole NAR is verified
//!                    ├── Stop: another source is needed
//!                    └── until_needed_elsewhere, then release: as Stop::Displaced
//! ```

mod chunk_source;
mod delta_source;
mod partial_source;
mod plain_source;
mod read_coalescing;
mod readahead_source;
mod rebuild_source;

use async_trait::async_trait;

use super::error::HostFault;
use super::progress::TransferProgress;
use super::verify::{Piece, Verifier};
use crate::pool::{HostId, Pool};

pub(super) use chunk_source::ChunkSource;
pub(super) use delta_source::DeltaSource;
pub(super) use partial_source::PartialSource;
pub(super) use plain_source::{PlainDump, PlainSource};
pub(super) use readahead_source::ReadaheadSource;
pub(super) use rebuild_source::RebuildSource;

/// One way to bring what is missing of a NAR.
#[async_trait]
pub(super) trait Source: Send {
    /// The next bytes from the offset of `verifier` on, which moves on with them. Not to be called again after
    /// [`Step::Complete`] or an error.
    async fn next(&mut self, verifier: &mut Verifier) -> Result<Step, Stop>;

    /// Returns when others need what this source occupies. Called while the caller does not take what was brought.
    async fn until_needed_elsewhere(&mut self) {
        std::future::pending().await
    }

    /// Gives that up. The source is of no use afterwards.
    fn release(&mut self) {}
}

/// What a source has brought.
pub(super) enum Step {
    /// Bytes that may be written.
    Write(Piece),
    /// The last bytes that may be written: all of the NAR has come, and it is the promised one.
    Complete(Vec<Piece>),
}

/// Why a source brings no more.
pub(super) enum Stop {
    /// No worker had come to it, or what was read ahead is lost: nothing is known against any host.
    NotStarted,
    /// The worker that read it ahead from this host failed, and has recorded why.
    WorkerFailed(HostId),
    /// It does not come as differences. No host is to blame.
    NoDelta,
    /// What an earlier command had received has come. What follows comes from hosts.
    KeptHasEnded,
    /// That is not the promised NAR. No host is to blame.
    KeptIsWrong,
    /// What could be had this way has come. No single host is to blame.
    Exhausted,
    /// The caller took nothing for long, and others needed the channel.
    Displaced,
    /// A host failed.
    Fault {
        /// Which one.
        host: HostId,
        /// What was wrong.
        fault: Box<HostFault>,
        /// Whether there was a connection to it.
        connected: bool,
    },
}

/// Reports to the user which host the bytes of one source come from.
struct SourceProgress<'a> {
    progress: &'a dyn TransferProgress,
    pool: &'a Pool,
    /// The host that was reported last.
    host: Option<HostId>,
}

impl<'a> SourceProgress<'a> {
    fn new(progress: &'a dyn TransferProgress, pool: &'a Pool) -> Self {
        Self {
            progress,
            pool,
            host: None,
        }
    }

    /// What follows comes from `host`.
    fn set_host(&mut self, host: HostId) {
        if self.host.replace(host) != Some(host) {
            self.progress.set_host(&self.pool.host(host).to_string());
        }
    }

    /// So many bytes have come from the host that was reported last.
    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }
}
