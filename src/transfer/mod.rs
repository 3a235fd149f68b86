//! The NAR of one path, from the hosts to its sink. `fetch` tells how its parts work together.
//!
//! ```text
//!   Transfers::fetch ─▶ Fetch ─▶ Source (readahead | chunks | plain) ─▶ Verifier ─▶ NarSink
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `fetch` | chooses a source, goes on after a fault, writes to the sink |
//! | `source` | the trait of what brings bytes, and its implementations |
//! | `delivered` | small NARs that were delivered of late |
//! | `readahead` | NARs that are requested before the caller fetches them |
//! | `chunks` | large NARs over several channels and hosts |
//! | `deltas` | paths as differences from what this machine has |
//! | `partial` | what interrupted commands have received of large NARs |
//! | `verify` | what is checked before bytes are passed on, and the offset |
//! | `hosts` | which host has what, which sent something wrong, how fast each one is |
//! | `unpack` | restores a NAR to disk |

mod blocking;
mod caller;
mod chunks;
mod delivered;
mod deltas;
mod error;
mod fetch;
mod hosts;
mod nar_sink;
mod partial;
pub mod progress;
mod readahead;
mod request;
mod source;
pub mod unpack;
mod verify;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use caller::Caller;
pub use deltas::{BASES_MAX, Base, BaseLookup, BaseNar};
pub use error::{FailedTransfer, HostFault, PathFault, TransferError};
pub use hosts::{HolderLookup, HostTraffic, WayTraffic};
pub use nar_sink::NarSink;
pub(crate) use nar_sink::read_piece;
pub use partial::{PartialFile, PartialFiles};
pub use readahead::{SpillDisk, SpillFile};
pub use request::FetchRequest;
pub use verify::{Checkpoint, Piece, ResumePoint};

use crate::model::PathInfo;
use crate::pool::{HostId, Pool};
use crate::wire::nar::Completion;
use chunks::ChunkedDownloads;
use delivered::{Delivered, KeepingSink};
use deltas::Deltas;
use fetch::Fetch;
use hosts::HostBookkeeping;
use partial::Partials;
use progress::{Outcome, TransferInfo, TransferProgress};
use readahead::{Readahead, TransferContext};

/// How much of the reason a NAR quotes that takes the place of an undelivered one, in characters.
const REASON_MAX_CHARS: usize = 2000;

/// Fetches NARs from the hosts of a pool.
pub struct Transfers {
    context: TransferContext,
}

impl Transfers {
    /// Transfers from the hosts of `pool`. At most `memory` bytes are read ahead, for all callers together.
    /// `holder_lookup` knows the holders of a path, and is called when a host does not have what it reported, or sent it
    /// wrongly.
    #[must_use]
    pub fn new(pool: Arc<Pool>, memory: u64, holder_lookup: Box<dyn HolderLookup>) -> Self {
        Self::with_bases(pool, memory, holder_lookup, None)
    }

    /// As [`Transfers::new`]; paths of which `bases` knows other versions on this machine may come as differences from
    /// them.
    #[must_use]
    pub fn with_bases(
        pool: Arc<Pool>,
        memory: u64,
        holder_lookup: Box<dyn HolderLookup>,
        bases: Option<Arc<dyn BaseLookup>>,
    ) -> Self {
        let bookkeeping = Arc::new(HostBookkeeping::new(pool, holder_lookup));
        let chunks = Arc::new(ChunkedDownloads::new(bookkeeping.clone()));
        let deltas = Arc::new(Deltas::new(bookkeeping.clone(), bases));
        Self {
            context: TransferContext::new(bookkeeping, chunks, deltas, memory),
        }
    }

    /// The same, with room for `bytes` more bytes on a disk, for large NARs when the memory is used up; 0 for none.
    #[must_use]
    pub fn with_disk(mut self, disk: Arc<dyn SpillDisk>, bytes: u64) -> Self {
        self.context.set_disk(disk, bytes);
        self
    }

    /// The same; what interrupted commands have received of large NARs is kept in `files`, and later ones go on from there.
    #[must_use]
    pub fn with_partials(mut self, files: Arc<dyn PartialFiles>) -> Self {
        self.set_partials(files);
        self
    }

    /// As [`with_partials`](Self::with_partials), in place of what was set before.
    pub fn set_partials(&mut self, files: Arc<dyn PartialFiles>) {
        self.context.partials = Some(Arc::new(Partials::new(files)));
    }

    /// From now on, small NARs that were delivered are kept in memory for a while (at most 32 MiB of them): the next caller that
    /// wants them gets them from there. Of use where several callers fetch the same.
    pub fn keep_delivered(&mut self) {
        self.context.delivered = Some(Arc::default());
    }

    /// Drops small NARs that nobody wants any more, and removes what is too old of what interrupted commands have received. To be
    /// called now and then.
    pub async fn sweep(&self) {
        if let Some(delivered) = &self.context.delivered {
            delivered.sweep();
        }
        if let Some(partials) = &self.context.partials {
            partials.sweep().await;
        }
    }

    /// How many bytes are kept of incomplete NARs: of all, or of those alone that this process has begun to fetch.
    #[must_use]
    pub fn kept(&self, ours_only: bool) -> u64 {
        let partials = self.context.partials.as_ref();
        partials.map_or(0, |partials| partials.kept(ours_only))
    }

    /// A new caller.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(Readahead::new(&self.context))
    }

    /// How many bytes are read ahead and held, and how many may be.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        (self.context.memory.used(), self.context.memory.total())
    }

    /// The same on disk.
    #[must_use]
    pub fn on_disk(&self) -> (u64, u64) {
        self.context.on_disk()
    }

    /// The throughput of a host of late, in bytes a second; `None` while it is not known.
    #[must_use]
    pub fn rate(&self, host: HostId) -> Option<u64> {
        self.context.bookkeeping.throughput.of(host)
    }

    /// How many bytes came from a host, and in which way.
    #[must_use]
    pub fn traffic(&self, host: HostId) -> HostTraffic {
        self.context.bookkeeping.traffic.of(host)
    }

    /// Counts the bytes of NARs that come over the wire from all hosts.
    #[must_use]
    pub fn wire_bytes(&self) -> Arc<AtomicU64> {
        self.context.bookkeeping.traffic.wire_bytes()
    }

    /// Fetches a NAR into `sink`: what has been read ahead, else from its holders in their order, then from any other
    /// host that turns out to have the same NAR. A transfer that breaks goes on from the same byte on another connection.
    /// The end is written only after hash and size are verified. Gives the number of bytes.
    ///
    /// # Errors
    /// When no host can deliver, or `sink` takes no more. The failure says how to complete what was written to a
    /// well-formed archive (with the wrong content).
    pub async fn fetch(
        &self,
        request: FetchRequest<'_>,
        sink: &mut dyn NarSink,
    ) -> Result<u64, FailedTransfer> {
        let (info, bookkeeping) = (request.info, &self.context.bookkeeping);
        if let Some(partials) = &self.context.partials {
            partials.load().await;
            let is_kept = |info: &PathInfo| partials.may_have(info);
            request.caller.readahead.leave_out(&is_kept);
        }
        let first = request.holders.first();
        let first = first.map(|host| bookkeeping.pool.host(*host).to_string());
        let watch = request.progress.start(&TransferInfo {
            path: info.path.clone(),
            host: first.unwrap_or_default(),
            total: info.nar_size,
        });
        let delivered = self.context.delivered.as_deref();
        let delivered = delivered.filter(|_| request.resume.is_none() && Delivered::suits(info));
        let result = match (delivered.and_then(|known| known.get(info)), delivered) {
            (Some(pieces), _) => {
                request.caller.readahead.comes_otherwise(info);
                write_all(info, pieces, &*watch, sink).await
            }
            (None, Some(delivered)) => {
                let bytes = Vec::new();
                let mut sink = KeepingSink { sink, bytes };
                let result = self.fetch_from_hosts(&request, &*watch, &mut sink).await;
                if result.is_ok() {
                    delivered.keep(info, sink.bytes);
                }
                result
            }
            (None, None) => self.fetch_from_hosts(&request, &*watch, sink).await,
        };
        watch.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) => Outcome::Failed,
        });
        result
    }

    async fn fetch_from_hosts(
        &self,
        request: &FetchRequest<'_>,
        watch: &dyn TransferProgress,
        sink: &mut dyn NarSink,
    ) -> Result<u64, FailedTransfer> {
        let mut fetch = Fetch::new(&self.context, request, watch, sink);
        let result = fetch.run().await;
        result.map_err(|error| {
            let reason: String = error.to_string().chars().take(REASON_MAX_CHARS).collect();
            let rest = fetch.verifier().completion(&reason);
            FailedTransfer { error, rest }
        })
    }
}

/// Writes a NAR that is here; gives its size.
async fn write_all(
    info: &PathInfo,
    pieces: Vec<Piece>,
    watch: &dyn TransferProgress,
    sink: &mut dyn NarSink,
) -> Result<u64, FailedTransfer> {
    for piece in pieces {
        watch.advance(piece.bytes.len() as u64);
        sink.write(piece).await.map_err(|source| FailedTransfer {
            error: TransferError::Sink {
                path: info.path.clone(),
                source,
            },
            // Nobody takes it.
            rest: Completion::default(),
        })?;
    }
    Ok(info.nar_size)
}
