//! One path: choose a host, stream its NAR, verify it, go on elsewhere when that fails. How these follow
//! each other is in `fetch`.

mod ahead;
mod attempt;
mod book;
mod content;
mod error;
mod fetch;
mod piece;
pub mod progress;
mod rates;
mod stream;
mod stripe;
mod tries;
pub mod unpack;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

pub use book::Whereabouts;
pub use error::{Failed, HostFault, TransferError};
pub use piece::{Mark, Piece, Resume};

use crate::model::PathInfo;
use crate::pool::{HostId, Pool};
use ahead::{Common, Readahead};
use book::Book;
use fetch::Fetch;
use progress::{Outcome, Progress, TransferInfo};
use stripe::Striper;

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

    /// Takes the next `len` bytes, which are verified and lie in a pipe already.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    async fn write_from_pipe(&mut self, pipe: &mut pipe::Receiver, len: usize) -> io::Result<()> {
        self.write(read_piece(pipe, len).await?).await
    }
}

/// Reads a verified piece of `len` bytes from a pipe.
pub(crate) async fn read_piece(pipe: &mut pipe::Receiver, len: usize) -> io::Result<Piece> {
    let mut bytes = BytesMut::zeroed(len);
    pipe.read_exact(&mut bytes).await?;
    Ok(Piece::verified(bytes.freeze()))
}

/// Fetches NARs from the hosts of a pool.
pub struct Transfers {
    common: Common,
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
    pub fn begin_anew(&self) {
        self.ahead.begin_anew();
    }

    /// Drops what was read ahead, when the caller has not fetched anything for a minute. To be
    /// called now and then.
    pub fn rest_if_idle(&self) {
        self.ahead.rest_if_idle();
    }
}

/// What is to be fetched, and for whom.
pub struct Wish<'a> {
    /// The path, and the NAR that was promised.
    pub info: &'a PathInfo,
    /// Who is known to have it, the best host first.
    pub holders: &'a [HostId],
    /// For whom.
    pub caller: &'a Caller,
    /// Where another transfer of the same NAR broke off: only what follows is passed on.
    pub resume: Option<Resume>,
    /// Shows it.
    pub progress: &'a dyn Progress,
}

impl Transfers {
    /// Transfers from the hosts of `pool`. At most `memory` bytes are read ahead, for all callers
    /// together. `whereabouts` tells who has what, and is told of what a host turned out not to
    /// have, or sent wrongly.
    #[must_use]
    pub fn new(pool: Arc<Pool>, memory: u64, whereabouts: Box<dyn Whereabouts>) -> Self {
        let book = Arc::new(Book::new(pool, whereabouts));
        let striper = Arc::new(Striper::new(book.clone()));
        Self {
            common: Common::new(book, striper, memory),
        }
    }

    /// A new caller.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            ahead: Readahead::new(&self.common),
        }
    }

    /// How many bytes of NARs are held that were read ahead, and how many may be.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        (self.common.memory.used(), self.common.memory.total())
    }

    /// How fast a host has been of late, in bytes a second; `None` as long as nobody knows.
    #[must_use]
    pub fn rate(&self, host: HostId) -> Option<u64> {
        self.common.book.rates.of(host)
    }

    /// Brings the NAR of a wish into `sink`: what has been read ahead, else from its holders in
    /// their order, then from any other host that turns out to have the same NAR. A transfer that
    /// breaks goes on from the same byte on another connection. The end is passed on only after hash
    /// and size proved right. Gives the number of bytes.
    ///
    /// # Errors
    /// When no host can deliver, or `sink` takes no more. The failure tells how to complete what
    /// `sink` has got to a well-formed archive (with the wrong content).
    pub async fn fetch(&self, wish: Wish<'_>, sink: &mut dyn NarSink) -> Result<u64, Failed> {
        let (info, book) = (wish.info, &self.common.book);
        let first = wish.holders.first();
        let first = first.map(|host| book.pool.host(*host).to_string());
        let watch = wish.progress.start(&TransferInfo {
            path: info.path.clone(),
            host: first.unwrap_or_default(),
            total: info.nar_size,
        });
        let mut fetch = Fetch::new(&self.common, &wish, &*watch, sink);
        let result = fetch.run().await;
        let result = result.map_err(|error| {
            let reason: String = error.to_string().chars().take(REASON).collect();
            let rest = fetch.stream().completion(&reason);
            Failed { error, rest }
        });
        watch.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) => Outcome::Failed,
        });
        result
    }
}
