//! One NAR that is read ahead: filled by a worker, read by those who asked for it.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::memory_budget::Reservation;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::chunks::{Priority, URGENT};
use crate::transfer::error::Unfit;
use crate::transfer::verify::{Piece, Rejected, Taken, Verifier};

/// NARs up to this size, in bytes, are copied out of the buffers they came in, which are larger.
const SMALL: usize = 64 << 10;

/// Who fills a task. A worker that finds another owner in there has lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transfer) struct OwnerId(pub(super) u64);

pub(in crate::transfer) struct ReadaheadTask {
    pub(in crate::transfer) info: Arc<PathInfo>,
    pub(in crate::transfer) holders: Arc<[HostId]>,
    // Held while a piece is hashed.
    inner: Mutex<TaskState>,
    /// For the readers.
    changed: Notify,
    /// Of the parts it comes in, if it does.
    pub(super) priority: Priority,
}

struct TaskState {
    owner: OwnerId,
    /// Who is asked for it.
    host: HostId,
    /// Counts what comes from there: of this NAR, or of those that were asked for before it.
    meter: Arc<AtomicU64>,
    /// The worker has come to it.
    begun: bool,
    /// Somebody waits for it.
    wanted: bool,
    stream: Verifier,
    /// What has come and not been read by all, with who sent it.
    ready: VecDeque<(Piece, HostId)>,
    /// How many pieces came before those.
    gone: usize,
    readers: Vec<ReadPosition>,
    next_reader: u64,
    end: Option<End>,
}

/// How far one reader is.
struct ReadPosition {
    reader: u64,
    /// Which piece it comes to next.
    next: usize,
    /// Each has room of its own for what it has not read, so that a caller which never reads takes
    /// nothing from the others.
    room: Reservation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it is there, and right.
    Complete,
    /// Readers have to get the rest by themselves.
    Broken,
}

/// What came of feeding a task.
pub(in crate::transfer) enum FeedOutcome {
    /// There is more to come.
    More,
    /// It is complete and right.
    Complete,
    /// It is another worker's by now, or the readers' own.
    Lost,
    /// It has come whole, and is not taken.
    Unfit(Unfit),
}

/// What a reader gets next.
pub(in crate::transfer) enum ReadEvent {
    /// From that host.
    Piece(Piece, HostId),
    /// That was all, and it is right.
    Complete,
    /// No more will come; this is how far it got.
    Broken(Box<Verifier>),
}

impl ReadaheadTask {
    /// A task, with its first reader.
    pub(super) fn start(
        info: Arc<PathInfo>,
        holders: Arc<[HostId]>,
        (owner, host): (OwnerId, HostId),
        room: Reservation,
    ) -> TaskReader {
        let stream = Verifier::new(&info);
        let task = Self {
            info,
            holders,
            inner: Mutex::new(TaskState {
                owner,
                host,
                meter: Arc::default(),
                begun: false,
                wanted: false,
                stream,
                ready: VecDeque::new(),
                gone: 0,
                readers: vec![ReadPosition {
                    reader: 0,
                    next: 0,
                    room,
                }],
                next_reader: 1,
                end: None,
            }),
            changed: Notify::new(),
            priority: Arc::new(AtomicU64::new(owner.0 + 1)),
        };
        TaskReader {
            task: Arc::new(task),
            id: 0,
        }
    }

    /// One more reader, as long as nothing of it is gone, and if `reserve` gives room for all of it.
    pub(super) fn join(
        self: &Arc<Self>,
        reserve: impl FnOnce() -> Option<Reservation>,
    ) -> Option<TaskReader> {
        let mut inner = self.inner.lock();
        if inner.gone > 0 || inner.readers.is_empty() || inner.end == Some(End::Broken) {
            return None;
        }
        let room = reserve()?;
        let id = inner.next_reader;
        inner.next_reader += 1;
        inner.readers.push(ReadPosition {
            reader: id,
            next: 0,
            room,
        });
        drop(inner);
        Some(TaskReader {
            task: self.clone(),
            id,
        })
    }

    /// Whether this worker is the one that is to fill it.
    pub(super) fn is_of(&self, owner: OwnerId) -> bool {
        let inner = self.inner.lock();
        inner.owner == owner && inner.end.is_none()
    }

    /// The worker's turn has come to fill it; whether it is still its own.
    pub(super) fn begin(&self, owner: OwnerId) -> bool {
        let mut inner = self.inner.lock();
        let mine = inner.owner == owner && inner.end.is_none();
        inner.begun |= mine;
        mine
    }

    /// Takes what is whole off the buffer, into which `host` has sent something.
    pub(super) fn feed(
        &self,
        worker: OwnerId,
        buf: &mut BytesMut,
        host: HostId,
    ) -> Result<FeedOutcome, Rejected> {
        let mut inner = self.inner.lock();
        let TaskState {
            owner,
            stream,
            ready,
            end,
            ..
        } = &mut *inner;
        if *owner != worker || end.is_some() {
            return Ok(FeedOutcome::Lost);
        }
        let before = ready.len();
        let fed = loop {
            match stream.take(buf)? {
                Taken::Nothing if ready.len() == before => return Ok(FeedOutcome::More),
                Taken::Nothing => break FeedOutcome::More,
                Taken::Pass(piece) => ready.push_back((piece, host)),
                Taken::Complete => match stream.verify() {
                    Ok(held) => {
                        ready.extend(compact(held).into_iter().map(|piece| (piece, host)));
                        *end = Some(End::Complete);
                        break FeedOutcome::Complete;
                    }
                    Err(unfit) => return Ok(FeedOutcome::Unfit(unfit)),
                },
            }
        };
        if inner.readers.is_empty() {
            // Nobody has room for it, and nobody joins any more.
            inner.forget_read();
        }
        drop(inner);
        self.changed.notify_waiters();
        Ok(fed)
    }

    /// The worker cannot fill it. Whether it may be tried again from the beginning: nobody waits
    /// for it, and nothing of it has been passed on.
    pub(super) fn give_up(&self, owner: OwnerId) -> bool {
        let mut inner = self.inner.lock();
        if inner.owner != owner || inner.end.is_some() {
            return false;
        }
        inner.end = Some(End::Broken);
        let again = !inner.wanted && inner.ready.is_empty();
        drop(inner);
        self.changed.notify_waiters();
        again
    }

    /// Lets another worker fill it, if its own has not begun.
    pub(super) fn steal(&self, owner: OwnerId, host: HostId) -> Option<HostId> {
        let mut inner = self.inner.lock();
        if inner.begun || inner.end.is_some() {
            return None;
        }
        inner.owner = owner;
        Some(std::mem::replace(&mut inner.host, host))
    }

    /// Who is asked for it, while it has not begun to come.
    pub(super) fn awaited_from(&self) -> Option<HostId> {
        let inner = self.inner.lock();
        (!inner.begun && inner.end.is_none()).then_some(inner.host)
    }

    /// Whoever fills it counts there what comes.
    pub(super) fn set_meter(&self, owner: OwnerId, meter: &Arc<AtomicU64>) {
        let mut inner = self.inner.lock();
        if inner.owner == owner {
            inner.meter = meter.clone();
        }
    }

    /// How many bytes have come from whoever fills it, of this NAR and others: as long as that grows, it
    /// is on its way.
    pub(in crate::transfer) fn received(&self) -> u64 {
        self.inner.lock().meter.load(Ordering::Relaxed)
    }

    /// The host that fills it or has filled it.
    pub(in crate::transfer) fn host(&self) -> HostId {
        self.inner.lock().host
    }

    pub(super) fn is_complete(&self) -> bool {
        self.inner.lock().end == Some(End::Complete)
    }
}

impl TaskState {
    fn position(&mut self, reader: u64) -> Option<&mut ReadPosition> {
        self.readers
            .iter_mut()
            .find(|position| position.reader == reader)
    }

    fn is_lost(&self) -> bool {
        self.end == Some(End::Broken) && self.gone + self.ready.len() == 0
    }

    /// Forgets what all have read.
    fn forget_read(&mut self) {
        let next = self.readers.iter().map(|position| position.next).min();
        let next = next.unwrap_or(usize::MAX);
        while self.gone < next && self.ready.pop_front().is_some() {
            self.gone += 1;
        }
    }
}

/// Somebody for whom a NAR is read ahead. What is not read yet is kept as long as this lives.
pub(in crate::transfer) struct TaskReader {
    pub(in crate::transfer) task: Arc<ReadaheadTask>,
    id: u64,
}

impl TaskReader {
    /// It is wanted now. Whether there is still somebody, or something, to wait for.
    pub(super) fn want(&self) -> bool {
        let mut inner = self.task.inner.lock();
        inner.wanted = true;
        self.task.priority.store(URGENT, Ordering::Relaxed);
        !inner.is_lost()
    }

    /// Whoever was to fill it gave up before anything had come.
    pub(super) fn is_lost(&self) -> bool {
        self.task.inner.lock().is_lost()
    }

    /// What comes next.
    pub(in crate::transfer) async fn next(&self) -> ReadEvent {
        loop {
            let changed = self.task.changed.notified();
            tokio::pin!(changed);
            // Before the look: what comes between look and wait must not be missed.
            changed.as_mut().enable();
            if let Some(next) = self.take() {
                return next;
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<ReadEvent> {
        let mut inner = self.task.inner.lock();
        let gone = inner.gone;
        let next = inner.position(self.id)?.next;
        if let Some((piece, host)) = inner.ready.get(next - gone).cloned() {
            let position = inner.position(self.id)?;
            position.next += 1;
            position.room.fetched(piece.bytes.len() as u64);
            inner.forget_read();
            return Some(ReadEvent::Piece(piece, host));
        }
        match inner.end? {
            End::Complete => Some(ReadEvent::Complete),
            End::Broken => {
                inner.stream.roll_back();
                Some(ReadEvent::Broken(Box::new(inner.stream.clone())))
            }
        }
    }

    /// Nobody waits any longer for whoever fills it: what follows in [`TaskReader::next`] is what is
    /// there already, and then that it is broken.
    pub(in crate::transfer) fn abandon(&self) {
        let mut inner = self.task.inner.lock();
        if inner.end.is_none() {
            inner.end = Some(End::Broken);
            drop(inner);
            self.task.changed.notify_waiters();
        }
    }
}

impl Drop for TaskReader {
    fn drop(&mut self) {
        let mut inner = self.task.inner.lock();
        inner.readers.retain(|position| position.reader != self.id);
        inner.forget_read();
        // Nobody wants it any more. A small one may come all the same: to stop it would cost the
        // connection.
        let large = self.task.info.nar_size > super::SMALL_NAR;
        if inner.readers.is_empty() && inner.end.is_none() && inner.begun && large {
            inner.end = Some(End::Broken);
        }
    }
}

fn compact(pieces: Vec<Piece>) -> Vec<Piece> {
    let bytes = pieces.iter().map(|piece| piece.bytes.len());
    if bytes.sum::<usize>() > SMALL {
        return pieces;
    }
    let all: Vec<_> = pieces.into_iter().map(|piece| piece.bytes).collect();
    vec![Piece::verified(Bytes::from(all.concat()))]
}
