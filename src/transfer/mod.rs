//! One path: choose a host, stream its NAR, verify it, go on elsewhere when that fails. How these follow
//! each other is in `fetch`.

mod chunks;
mod error;
mod fetch;
mod hosts;
pub mod progress;
mod readahead;
mod source;
pub mod unpack;
mod verify;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

pub use error::{FailedTransfer, HostFault, TransferError};
pub use hosts::HolderLookup;
pub use verify::{Checkpoint, Piece, ResumePoint};

use crate::model::PathInfo;
use crate::pool::{HostId, Pool};
use chunks::ChunkedDownloads;
use fetch::Fetch;
use hosts::HostBookkeeping;
use progress::{Outcome, Progress, TransferInfo};
use readahead::{Readahead, TransferContext};

/// How much of the reason stands in a NAR that takes the place of one that nobody could deliver, in
/// characters.
const REASON: usize = 2000;

/// Takes a NAR, piece by piece.
#[async_trait]
pub trait NarSink: Send {
    /// Takes the next piece. Returns when there is room for more.
    ///
    /// # Errors
    /// When nothing more can be taken; the transfer then ends.
    async fn write(&mut self, piece: Piece) -> io::Result<()>;
}

/// Fetches NARs from the hosts of a pool.
pub struct Transfers {
    context: TransferContext,
}

/// Somebody who asks about paths and then fetches them, on one connection or on several. What is
/// read ahead for a caller is dropped with it.
pub struct Caller {
    ahead: Readahead,
}

impl Caller {
    /// The caller has asked what this path is and got this answer. From its first
    /// [`fetch`](Transfers::fetch) on, such paths are read ahead.
    pub fn expect(&self, info: &Arc<PathInfo>, holders: &Arc<[HostId]>) {
        self.ahead.expect(info, holders);
    }

    /// The caller comes back for something else: what it has fetched it may fetch again.
    pub fn forget_fetched(&self) {
        self.ahead.forget_fetched();
    }

    /// Drops what was read ahead, when the caller has not fetched anything for a minute. To be
    /// called now and then.
    pub fn pause_if_idle(&self) {
        self.ahead.pause_if_idle();
    }
}

/// What is to be fetched, and for whom.
pub struct FetchRequest<'a> {
    /// The path, and the NAR that was promised.
    pub info: &'a PathInfo,
    /// Who is known to have it, the best host first.
    pub holders: &'a [HostId],
    /// For whom.
    pub caller: &'a Caller,
    /// Where another transfer of the same NAR broke off: only what follows is passed on.
    pub resume: Option<ResumePoint>,
    /// Shows it.
    pub progress: &'a dyn Progress,
}

impl Transfers {
    /// Transfers from the hosts of `pool`. At most `memory` bytes are read ahead, for all callers
    /// together. `holder_lookup` tells who has what, and is told of what a host turned out not to
    /// have, or sent wrongly.
    #[must_use]
    pub fn new(pool: Arc<Pool>, memory: u64, holder_lookup: Box<dyn HolderLookup>) -> Self {
        let book = Arc::new(HostBookkeeping::new(pool, holder_lookup));
        let chunks = Arc::new(ChunkedDownloads::new(book.clone()));
        Self {
            context: TransferContext::new(book, chunks, memory),
        }
    }

    /// A new caller.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            ahead: Readahead::new(&self.context),
        }
    }

    /// How many bytes of NARs are held that were read ahead, and how many may be.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        (self.context.memory.used(), self.context.memory.total())
    }

    /// How fast a host has been of late, in bytes a second; `None` as long as nobody knows.
    #[must_use]
    pub fn rate(&self, host: HostId) -> Option<u64> {
        self.context.book.rates.of(host)
    }

    /// Brings the NAR of a request into `sink`: what has been read ahead, else from its holders in
    /// their order, then from any other host that turns out to have the same NAR. A transfer that
    /// breaks goes on from the same byte on another connection. The end is passed on only after hash
    /// and size proved right. Gives the number of bytes.
    ///
    /// # Errors
    /// When no host can deliver, or `sink` takes no more. The failure tells how to complete what
    /// `sink` has got to a well-formed archive (with the wrong content).
    pub async fn fetch(
        &self,
        request: FetchRequest<'_>,
        sink: &mut dyn NarSink,
    ) -> Result<u64, FailedTransfer> {
        let (info, book) = (request.info, &self.context.book);
        let first = request.holders.first();
        let first = first.map(|host| book.pool.host(*host).to_string());
        let watch = request.progress.start(&TransferInfo {
            path: info.path.clone(),
            host: first.unwrap_or_default(),
            total: info.nar_size,
        });
        let mut fetch = Fetch::new(&self.context, &request, &*watch, sink);
        let result = fetch.run().await;
        let result = result.map_err(|error| {
            let reason: String = error.to_string().chars().take(REASON).collect();
            let rest = fetch.stream().completion(&reason);
            FailedTransfer { error, rest }
        });
        watch.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) => Outcome::Failed,
        });
        result
    }
}
