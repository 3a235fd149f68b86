//! One channel to a host: paths go out one behind the other, acknowledgements come back in the same order.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::PathFault;
use super::carrier::{Carrier, Out};
use super::schedule::{LARGE, LaneId, Role};
use super::target::Target;
use crate::model::PathInfo;
use crate::pool::WriteReplies;
use crate::remote::{RemoteError, Version};
use crate::transfer::progress::{Outcome, TransferInfo, TransferProgress};
use crate::wire::serve::{put_add_to_store_nar, put_import_end, put_import_start};

/// How many paths may be on their way on a lane without an acknowledgement. It bounds what is sent again after a failure.
const IN_FLIGHT_MAX: usize = 512;

/// With fewer bytes of a NAR left than that, it goes to its end where it began, although all others go by another lane now.
const LEFT_MIN: u64 = 4 << 20;

/// As many bytes of a NAR tell how small the whole of it may become: fewer tell too little.
const SAMPLE_MIN: usize = 16 << 10;

/// How a lane ended.
pub(super) enum LaneEnd {
    /// There is nothing more to do.
    Done,
    /// The connection ended: why, and the path that the host was busy with.
    Lost(RemoteError, Option<usize>),
    /// A large NAR turned out wrong here on its way. The connection was closed, so that the host drops it.
    Withheld(usize, PathFault),
    /// A large NAR is to go by another lane from its beginning. The connection was closed, so that the host drops it.
    Left,
    /// It takes blocks, and the host does not: why.
    Impossible(&'static str),
}

/// A path on its way.
struct Pending {
    place: usize,
    shown: Box<dyn TransferProgress>,
}

/// A lane that runs.
struct Lane<'a> {
    host: &'a Target,
    id: LaneId,
    role: Role,
    out: AsyncMutex<Out>,
    version: Version,
    pending: Mutex<VecDeque<Pending>>,
    /// One more or one fewer is pending.
    changed: Notify,
}

/// Why a lane sends no more.
enum SendEnd {
    Finished,
    /// The host takes no more bytes: what comes back tells why.
    Closed,
    Stopped(usize, Stop),
}

/// Why a NAR is not sent to its end.
enum Stop {
    /// It turned out wrong here, before any of it was sent.
    Unsent(PathFault),
    /// The same on its way.
    Withheld(PathFault),
    /// It goes by another lane.
    Left,
}

/// Sends what the host lacks until nothing is left, or this connection ends.
pub(super) async fn run(host: &Target, id: LaneId, role: Role, carrier: Carrier) -> LaneEnd {
    let Carrier {
        out,
        mut replies,
        version,
    } = carrier;
    let lane = Lane {
        host,
        id,
        role,
        out: AsyncMutex::new(out),
        version,
        pending: Mutex::default(),
        changed: Notify::new(),
    };
    let mut sending = std::pin::pin!(lane.send_all());
    let mut replying = std::pin::pin!(lane.take_replies(&mut replies));
    let end = tokio::select! {
        biased;
        error = &mut replying => return lane.lost(error),
        end = &mut sending => end,
    };
    match end {
        SendEnd::Finished => LaneEnd::Done,
        SendEnd::Closed => lane.lost(replying.await),
        SendEnd::Stopped(place, stop) => {
            // Those before it are complete: they are worth waiting for.
            tokio::select! {
                biased;
                error = &mut replying => return lane.lost(error),
                () = lane.until_only_one_is_pending() => {}
            }
            match stop {
                Stop::Unsent(fault) | Stop::Withheld(fault) => LaneEnd::Withheld(place, fault),
                Stop::Left => LaneEnd::Left,
            }
        }
    }
}

impl Lane<'_> {
    fn lost(&self, error: RemoteError) -> LaneEnd {
        let first = self.pending.lock().front().map(|pending| pending.place);
        LaneEnd::Lost(error, first)
    }

    async fn until_only_one_is_pending(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.pending.lock().len() <= 1 {
                return;
            }
            changed.await;
        }
    }

    async fn until_there_is_room(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.has_room() {
                return;
            }
            changed.await;
        }
    }

    /// Takes acknowledgements as they come. Returns why the connection ended.
    async fn take_replies(&self, replies: &mut WriteReplies) -> RemoteError {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.pending.lock().is_empty() {
                tokio::select! {
                    biased;
                    // First: what a quick host answers may be there before this task looks again.
                    () = changed => {}
                    error = replies.ended() => return error,
                }
                continue;
            }
            if let Err(error) = replies.next().await {
                return error;
            }
            if let Some(Pending { place, shown }) = self.pending.lock().pop_front() {
                shown.finish(Outcome::Done);
                self.host.acknowledged(place);
                if self.role == Role::Blocks {
                    self.host.acknowledged_blocks();
                }
            }
            self.changed.notify_waiters();
        }
    }

    async fn send_all(&self) -> SendEnd {
        loop {
            if !self.has_room() && !self.flush().await {
                return SendEnd::Closed;
            }
            self.until_there_is_room().await;
            let place = match self.host.next_now(self.id, self.role) {
                Some(place) => Some(place),
                // It may wait for what is on its way.
                None if !self.flush().await => return SendEnd::Closed,
                None => self.host.next(self.id, self.role).await,
            };
            let Some(place) = place else {
                return SendEnd::Finished;
            };
            let info = self.host.plan().info(place);
            let sent = match info.nar_size < LARGE {
                true => self.send_small(place).await,
                false => self.send_large(place).await,
            };
            match sent {
                Ok(true) => {}
                Ok(false) => return SendEnd::Closed,
                Err(Stop::Unsent(fault)) => self.host.fail_here(place, fault),
                Err(_) if !self.flush().await => return SendEnd::Closed,
                Err(stop) => return SendEnd::Stopped(place, stop),
            }
        }
    }

    /// Whether the host takes more; or why not all of it was sent.
    async fn send_small(&self, place: usize) -> Result<bool, Stop> {
        let head = self.head(place).map_err(Stop::Unsent)?;
        let nar = self.host.nars().whole(place).await;
        let nar = nar.map_err(Stop::Unsent)?;
        let bytes = nar.len() as u64;
        self.begin(place);
        // One write for each path.
        let mut whole = head;
        whole.extend_from_slice(&nar);
        whole.extend_from_slice(&self.tail(place));
        let sent = self.write(whole.into()).await;
        self.advance(bytes);
        Ok(sent)
    }

    async fn send_large(&self, place: usize) -> Result<bool, Stop> {
        let head = self.head(place).map_err(Stop::Unsent)?;
        let mut stream = self.host.nars().stream(place);
        // Most of what can go wrong shows with the first bytes.
        let mut next = stream.next().await.map_err(Stop::Unsent)?;
        let size = self.host.plan().info(place).nar_size;
        let mut left = size;
        let mut is_judged = false;
        self.begin(place);
        if !self.write(head.into()).await {
            return Ok(false);
        }
        while let Some(chunk) = next {
            let bytes = chunk.len() as u64;
            if !self.write(chunk.clone()).await {
                return Ok(false);
            }
            self.advance(bytes);
            left = left.saturating_sub(bytes);
            let may_go = left > LEFT_MIN && chunk.len() >= SAMPLE_MIN && !is_judged;
            if may_go && self.host.is_left_to_another(self.id, place) {
                is_judged = true;
                if self.is_less_anew(chunk, size, left).await {
                    return Err(Stop::Left);
                }
            }
            next = stream.next().await.map_err(Stop::Withheld)?;
        }
        let tail = self.tail(place);
        Ok(tail.is_empty() || self.write(tail.into()).await)
    }

    /// Whether a NAR of that size is fewer bytes when all of it goes compressed than what is left of it is as it is, if
    /// it gets as small as this piece of it.
    async fn is_less_anew(&self, piece: Bytes, size: u64, left: u64) -> bool {
        let Some(compress) = self.host.compress() else {
            return false;
        };
        let len = piece.len();
        let Some(compressed) = compress.len_of(piece).await else {
            return false;
        };
        let anew = u128::from(size) * compressed as u128;
        anew < u128::from(left) * len as u128
    }

    async fn write(&self, bytes: Bytes) -> bool {
        self.out.lock().await.send(self.host, bytes).await
    }

    async fn flush(&self) -> bool {
        self.out.lock().await.flush(self.host).await
    }

    fn has_room(&self) -> bool {
        self.pending.lock().len() < IN_FLIGHT_MAX
    }

    /// It is pending from now on: the host may end over its first bytes.
    fn begin(&self, place: usize) {
        let info = self.host.plan().info(place);
        let shown = self.host.show(&TransferInfo {
            path: info.path.clone(),
            host: self.host.name().to_owned(),
            total: info.nar_size,
        });
        self.pending.lock().push_back(Pending { place, shown });
        self.changed.notify_waiters();
    }

    /// So many more bytes of the last one that was begun.
    fn advance(&self, bytes: u64) {
        if let Some(pending) = self.pending.lock().back() {
            pending.shown.advance(bytes);
        }
    }

    fn has_add_to_store_nar(&self) -> bool {
        self.version >= Version::WITH_ADD_TO_STORE_NAR
    }

    /// What goes before the NAR.
    fn head(&self, place: usize) -> Result<Vec<u8>, PathFault> {
        let info: &Arc<PathInfo> = self.host.plan().signed_info(place);
        let (Some(hash), 1..) = (info.nar_hash, info.nar_size) else {
            return Err(PathFault::NoHash(info.path.clone()));
        };
        let mut head = Vec::new();
        if self.has_add_to_store_nar() {
            put_add_to_store_nar(&mut head, info, &hash);
        } else {
            self.host.warn_of_old_version(self.version);
            put_import_start(&mut head);
        }
        Ok(head)
    }

    /// What goes behind it.
    fn tail(&self, place: usize) -> Vec<u8> {
        let mut tail = Vec::new();
        if !self.has_add_to_store_nar() {
            put_import_end(&mut tail, self.host.plan().info(place));
        }
        tail
    }
}
