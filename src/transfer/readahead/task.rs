//! One NAR that is read ahead: filled by a worker, read by the callers that wait for it.

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
use crate::transfer::error::PathFault;
use crate::transfer::verify::{Piece, Taken, Verifier};

/// NARs up to this size, in bytes, go through a worker even if somebody waits for them already, and come
/// to their end even if nobody does any more.
pub(super) const SMALL_NAR: u64 = 4 << 20;

/// NARs up to this size, in bytes, are copied out of the buffers they came in, which are larger.
const COPIED_NAR_MAX: usize = 64 << 10;

/// Names the worker that fills a task. A worker that finds another id there has lost the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transfer) struct OwnerId(pub(super) u64);

pub(in crate::transfer) struct ReadaheadTask {
    pub(in crate::transfer) info: Arc<PathInfo>,
    pub(in crate::transfer) holders: Arc<[HostId]>,
    // Held while a piece is hashed.
    state: Mutex<TaskState>,
    /// For the readers.
    changed: Notify,
    /// Its rank among the NARs that come in chunks, if it does.
    pub(super) priority: Priority,
}

struct TaskState {
    owner: OwnerId,
    /// The host that is asked for it.
    host: HostId,
    /// Counts the bytes that come from the worker: of this NAR, or of those that it requested before.
    meter: Arc<AtomicU64>,
    /// It comes in chunks. They have limits of their own, and are held back until another host has confirmed them.
    in_chunks: bool,
    /// The worker has come to it.
    begun: bool,
    /// A caller waits for it.
    wanted: bool,
    verifier: Verifier,
    /// What has come and was not read by all readers, with its sender.
    pieces: VecDeque<(Piece, HostId)>,
    /// How many pieces came before those.
    dropped: usize,
    readers: Vec<ReadPosition>,
    next_reader: u64,
    end: Option<End>,
    /// All of it has come, and it is not the promised NAR: whoever has read nothing of it begins elsewhere.
    wrong: bool,
}

/// How far one reader is.
struct ReadPosition {
    reader: u64,
    /// Which piece it comes to next.
    next: usize,
    /// Each reader has a reservation for what it has not read, so that a caller which never reads takes no budget from
    /// the others.
    reservation: Reservation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it has come, and is verified.
    Complete,
    /// Readers have to get the rest by themselves.
    Broken,
}

/// The result of feeding a task.
pub(in crate::transfer) enum FeedOutcome {
    /// More bytes are needed.
    More,
    /// It is complete and verified.
    Complete,
    /// It belongs to another worker by now, or to its readers alone.
    NotOwner,
    /// It has come whole, and is not the promised NAR.
    Wrong(PathFault),
}

/// What a reader gets next.
pub(in crate::transfer) enum ReadEvent {
    /// A piece from that host.
    Piece(Piece, HostId),
    /// All of it was read; the verifier at its end.
    Complete(Box<Verifier>),
    /// No more will come; the verifier behind what was read.
    Broken(Box<Verifier>),
}

impl ReadaheadTask {
    /// Starts a task, with its first reader.
    pub(super) fn start(
        info: Arc<PathInfo>,
        holders: Arc<[HostId]>,
        (owner, host): (OwnerId, HostId),
        reservation: Reservation,
    ) -> TaskReader {
        let verifier = Verifier::new(&info);
        let task = Self {
            info,
            holders,
            state: Mutex::new(TaskState {
                owner,
                host,
                meter: Arc::default(),
                in_chunks: false,
                begun: false,
                wanted: false,
                verifier,
                pieces: VecDeque::new(),
                dropped: 0,
                readers: vec![ReadPosition {
                    reader: 0,
                    next: 0,
                    reservation,
                }],
                next_reader: 1,
                end: None,
                wrong: false,
            }),
            changed: Notify::new(),
            priority: Arc::new(AtomicU64::new(owner.0 + 1)),
        };
        TaskReader {
            task: Arc::new(task),
            id: 0,
        }
    }

    /// Adds a reader, as long as no piece is dropped, and if `reserve` gives room for all of it.
    pub(super) fn join(
        self: &Arc<Self>,
        reserve: impl FnOnce() -> Option<Reservation>,
    ) -> Option<TaskReader> {
        let mut state = self.state.lock();
        if state.dropped > 0 || state.readers.is_empty() || state.end == Some(End::Broken) {
            return None;
        }
        let reservation = reserve()?;
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.push(ReadPosition {
            reader: id,
            next: 0,
            reservation,
        });
        drop(state);
        Some(TaskReader {
            task: self.clone(),
            id,
        })
    }

    /// Whether this worker is the one that is to fill it.
    pub(super) fn is_of(&self, owner: OwnerId) -> bool {
        let state = self.state.lock();
        state.owner == owner && state.end.is_none()
    }

    /// The worker comes to fill it. Whether it still owns it.
    pub(super) fn begin(&self, owner: OwnerId) -> bool {
        let mut state = self.state.lock();
        let mine = state.owner == owner && state.end.is_none();
        state.begun |= mine;
        mine
    }

    /// Verifies what is in the buffer, which came from `host`, and takes it off.
    pub(super) fn feed(
        &self,
        worker: OwnerId,
        buf: &mut BytesMut,
        host: HostId,
    ) -> Result<FeedOutcome, PathFault> {
        let mut state = self.state.lock();
        let TaskState {
            owner,
            verifier,
            pieces,
            end,
            wrong,
            ..
        } = &mut *state;
        if *owner != worker || end.is_some() {
            return Ok(FeedOutcome::NotOwner);
        }
        let before = pieces.len();
        let fed = loop {
            match verifier.take(buf)? {
                Taken::NeedMore if pieces.len() == before => return Ok(FeedOutcome::More),
                Taken::NeedMore => break FeedOutcome::More,
                Taken::Piece(piece) => pieces.push_back((piece, host)),
                Taken::Complete => match verifier.verify() {
                    Ok(held) => {
                        pieces.extend(compact(held).into_iter().map(|piece| (piece, host)));
                        *end = Some(End::Complete);
                        break FeedOutcome::Complete;
                    }
                    Err(error) => {
                        *wrong = true;
                        state.drop_unread();
                        return Ok(FeedOutcome::Wrong(error));
                    }
                },
            }
        };
        if state.readers.is_empty() {
            // Nothing is reserved for it any more, and no reader can join.
            state.drop_read_pieces();
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(fed)
    }

    /// The worker cannot fill it. Whether another one may try from the beginning: no caller waits for it, and nothing of
    /// it can be read.
    pub(super) fn give_up(&self, owner: OwnerId) -> bool {
        let mut state = self.state.lock();
        if state.owner != owner || state.end.is_some() {
            return false;
        }
        state.end = Some(End::Broken);
        let again = !state.wanted && state.pieces.is_empty();
        drop(state);
        self.changed.notify_waiters();
        again
    }

    /// Gives it to another worker, if its own has not begun.
    pub(super) fn steal(&self, owner: OwnerId, host: HostId) -> Option<HostId> {
        let mut state = self.state.lock();
        if state.begun || state.end.is_some() {
            return None;
        }
        state.owner = owner;
        Some(std::mem::replace(&mut state.host, host))
    }

    /// The host that is asked for it, while it has not begun to come.
    pub(super) fn awaited_from(&self) -> Option<HostId> {
        let state = self.state.lock();
        (!state.begun && state.end.is_none()).then_some(state.host)
    }

    /// Sets what counts the bytes of its worker.
    pub(super) fn set_meter(&self, owner: OwnerId, meter: &Arc<AtomicU64>) {
        let mut state = self.state.lock();
        if state.owner == owner {
            state.meter = meter.clone();
        }
    }

    /// It comes in chunks, whose bytes this counts.
    pub(super) fn set_chunk_meter(&self, owner: OwnerId, meter: &Arc<AtomicU64>) {
        self.set_meter(owner, meter);
        let mut state = self.state.lock();
        state.in_chunks |= state.owner == owner;
    }

    pub(in crate::transfer) fn is_in_chunks(&self) -> bool {
        self.state.lock().in_chunks
    }

    /// How many bytes have come from its worker, of this NAR and others. As long as that grows, it is on its way.
    pub(in crate::transfer) fn received(&self) -> u64 {
        self.state.lock().meter.load(Ordering::Relaxed)
    }

    /// The host that fills it or has filled it.
    pub(in crate::transfer) fn host(&self) -> HostId {
        self.state.lock().host
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state.lock().end == Some(End::Complete)
    }
}

impl TaskState {
    fn position(&mut self, reader: u64) -> Option<&mut ReadPosition> {
        self.readers
            .iter_mut()
            .find(|position| position.reader == reader)
    }

    fn is_lost(&self) -> bool {
        self.end == Some(End::Broken) && self.dropped + self.pieces.len() == 0
    }

    /// Drops all pieces, if no reader has read any.
    fn drop_unread(&mut self) {
        if self.dropped == 0 && self.readers.iter().all(|position| position.next == 0) {
            self.pieces.clear();
        }
    }

    /// Drops the pieces that all have read.
    fn drop_read_pieces(&mut self) {
        let next = self.readers.iter().map(|position| position.next).min();
        let next = next.unwrap_or(usize::MAX);
        while self.dropped < next && self.pieces.pop_front().is_some() {
            self.dropped += 1;
        }
    }
}

/// One reader of a task. What it has not read is kept as long as this lives.
pub(in crate::transfer) struct TaskReader {
    pub(in crate::transfer) task: Arc<ReadaheadTask>,
    id: u64,
}

impl TaskReader {
    /// A caller waits for it now. Whether there is still something to wait for.
    pub(super) fn want(&self) -> bool {
        let mut state = self.task.state.lock();
        state.wanted = true;
        self.task.priority.store(URGENT, Ordering::Relaxed);
        !state.is_lost()
    }

    /// Whether its worker gave up before anything had come.
    pub(super) fn is_lost(&self) -> bool {
        self.task.state.lock().is_lost()
    }

    /// Waits for what comes next.
    pub(in crate::transfer) async fn next(&self) -> ReadEvent {
        loop {
            let changed = self.task.changed.notified();
            tokio::pin!(changed);
            // Registered before the check, so that no change is missed between check and wait.
            changed.as_mut().enable();
            if let Some(next) = self.take() {
                return next;
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<ReadEvent> {
        let mut state = self.task.state.lock();
        let dropped = state.dropped;
        let next = state.position(self.id)?.next;
        // Not before the worker has recorded what was wrong.
        if state.wrong && state.end.is_some() && next == 0 {
            return Some(ReadEvent::Broken(Box::new(Verifier::new(&self.task.info))));
        }
        if let Some((piece, host)) = state.pieces.get(next - dropped).cloned() {
            let position = state.position(self.id)?;
            position.next += 1;
            position.reservation.fetched(piece.bytes.len() as u64);
            state.drop_read_pieces();
            return Some(ReadEvent::Piece(piece, host));
        }
        match state.end? {
            End::Complete => Some(ReadEvent::Complete(Box::new(state.verifier.clone()))),
            End::Broken => {
                state.verifier.roll_back();
                Some(ReadEvent::Broken(Box::new(state.verifier.clone())))
            }
        }
    }

    /// Stops waiting for the worker: [`TaskReader::next`] gives what is there already, and then [`ReadEvent::Broken`].
    pub(in crate::transfer) fn abandon(&self) {
        let mut state = self.task.state.lock();
        if state.end.is_none() {
            state.end = Some(End::Broken);
            drop(state);
            self.task.changed.notify_waiters();
        }
    }
}

impl Drop for TaskReader {
    fn drop(&mut self) {
        let mut state = self.task.state.lock();
        state.readers.retain(|position| position.reader != self.id);
        state.drop_read_pieces();
        // No caller wants it any more. A small one may come all the same: to stop it would cost the connection.
        let large = self.task.info.nar_size > SMALL_NAR;
        if state.readers.is_empty() && state.end.is_none() && state.begun && large {
            state.end = Some(End::Broken);
        }
    }
}

fn compact(pieces: Vec<Piece>) -> Vec<Piece> {
    let bytes = pieces.iter().map(|piece| piece.bytes.len());
    if bytes.sum::<usize>() > COPIED_NAR_MAX {
        return pieces;
    }
    let all: Vec<_> = pieces.into_iter().map(|piece| piece.bytes).collect();
    vec![Piece::verified(Bytes::from(all.concat()))]
}
