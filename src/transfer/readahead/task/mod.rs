//! One NAR that is read ahead: filled by a worker, read by the callers that wait for it.

mod pieces;
mod reader;

use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::budget::Reservation;
use super::room::Room;
use super::spill::{OpenSpill, Spill};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::chunks::Priority;
use crate::transfer::error::PathFault;
use crate::transfer::verify::{Piece, Taken, Verifier};
use pieces::Pieces;
use reader::ReadPosition;
pub(in crate::transfer) use reader::{ReadEvent, TaskReader};

/// NARs up to this size, in bytes, go through a worker even if somebody waits for them already, and come
/// to their end even if nobody does any more.
pub(in crate::transfer) const SMALL_NAR: u64 = 4 << 20;

/// NARs up to this size, in bytes, are copied out of the buffers they came in, which are larger.
const COPIED_NAR_MAX: usize = 64 << 10;

/// How many bytes of a NAR on disk are in memory before they are written there.
const WRITE_FROM: u64 = 512 << 10;

/// The same while a caller reads it: mostly it has taken them by then.
const WRITE_FROM_WHILE_READ: u64 = 4 << 20;

/// Names the worker that fills a task. A worker that finds another id there has lost the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transfer) struct OwnerId(pub(super) u64);

/// How workers have failed to bring a NAR.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::transfer) struct Failures {
    /// How often.
    pub(super) count: u32,
    /// It did not come in chunks, although it might have. Now it comes whole.
    pub(super) in_chunks: bool,
}

pub(in crate::transfer) struct ReadaheadTask {
    pub(in crate::transfer) info: Arc<PathInfo>,
    pub(in crate::transfer) holders: Arc<[HostId]>,
    /// How workers have failed to bring it before.
    pub(super) failures: Failures,
    // Held while a piece is hashed.
    state: Mutex<TaskState>,
    /// For the readers.
    changed: Notify,
    /// Its rank among the NARs that come in chunks, if it does.
    pub(super) priority: Priority,
    /// What has come is kept on disk.
    spill: Option<Arc<Spill>>,
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
    /// What has come and was not read by all readers.
    pieces: Pieces,
    /// Where that is kept, if it is on disk, once the worker has come to it.
    file: Option<Arc<OpenSpill>>,
    readers: Vec<ReadPosition>,
    next_reader: u64,
    end: Option<End>,
    /// All of it has come, and it is not the promised NAR: whoever has read nothing of it begins elsewhere.
    wrong: bool,
    /// It is at an end for no fault of a host.
    is_blameless: bool,
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

impl ReadaheadTask {
    /// Starts a task that has failed in this way before, with its first reader.
    pub(super) fn start(
        (info, holders): (Arc<PathInfo>, Arc<[HostId]>),
        failures: Failures,
        (owner, host): (OwnerId, HostId),
        Room { reservation, spill }: Room,
    ) -> TaskReader {
        let verifier = Verifier::new(&info);
        let task = Self {
            info,
            holders,
            failures,
            state: Mutex::new(TaskState {
                owner,
                host,
                meter: Arc::default(),
                in_chunks: false,
                begun: false,
                wanted: false,
                verifier,
                pieces: Pieces::default(),
                file: None,
                readers: vec![ReadPosition::new(0, reservation)],
                next_reader: 1,
                end: None,
                wrong: false,
                is_blameless: false,
            }),
            changed: Notify::new(),
            priority: Arc::new(AtomicU64::new(owner.0 + 1)),
            spill,
        };
        TaskReader::new(Arc::new(task), 0)
    }

    /// Adds a reader, as long as no piece is dropped, and if `reserve` gives room for all of it: in memory or on disk, as
    /// it is told.
    pub(super) fn join(
        self: &Arc<Self>,
        reserve: impl FnOnce(bool) -> Option<Reservation>,
    ) -> Option<TaskReader> {
        let mut state = self.state.lock();
        if state.pieces.lacks_some() || state.readers.is_empty() || state.end == Some(End::Broken) {
            return None;
        }
        let reservation = reserve(self.spill.is_some())?;
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.push(ReadPosition::new(id, reservation));
        drop(state);
        Some(TaskReader::new(self.clone(), id))
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
        let before = pieces.count();
        let fed = loop {
            match verifier.take(buf)? {
                Taken::NeedMore if pieces.count() == before => return Ok(FeedOutcome::More),
                Taken::NeedMore => break FeedOutcome::More,
                Taken::Piece(piece) => pieces.push(piece, host),
                Taken::Complete => match verifier.verify() {
                    Ok(held) => {
                        for piece in compact(held) {
                            pieces.push(piece, host);
                        }
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

    /// Makes the file for it, if it is to be kept on disk. To be called once, before the first bytes.
    ///
    /// # Errors
    /// When there can be none.
    pub(super) async fn open_file(&self) -> io::Result<()> {
        let Some(spill) = &self.spill else {
            return Ok(());
        };
        let opened = spill.create(self.info.nar_size).await;
        let opened = opened.inspect_err(|error| spill.on_failure(error))?;
        self.state.lock().file = Some(Arc::new(opened));
        Ok(())
    }

    /// Writes to its file what has come, if there is one and enough has come for it.
    ///
    /// # Errors
    /// When the disk fails. What has come can be read all the same, but no more should be kept.
    pub(super) async fn write_out(&self) -> io::Result<()> {
        let Some(spill) = &self.spill else {
            return Ok(());
        };
        loop {
            let (file, unwritten) = {
                let state = self.state.lock();
                let enough = match state.end {
                    Some(_) => 1,
                    None if state.wanted => WRITE_FROM_WHILE_READ,
                    None => WRITE_FROM,
                };
                let has_enough = state.pieces.unwritten_bytes() >= enough;
                match (&state.file, state.pieces.unwritten()) {
                    (Some(file), Some(unwritten)) if has_enough => (file.clone(), unwritten),
                    _ => return Ok(()),
                }
            };
            let written = file.write(unwritten.pieces, unwritten.at).await;
            let digests = written.inspect_err(|error| spill.on_failure(error))?;
            let mut state = self.state.lock();
            // Nothing is left of it when it turned out wrong.
            if !state.pieces.is_empty() {
                state.pieces.set_written(unwritten.first, &digests);
            }
        }
    }

    /// Should its worker not bring it, that says nothing of any host.
    pub(super) fn set_blameless(&self) {
        self.state.lock().is_blameless = true;
    }

    /// The worker cannot fill it. Whether another one may try from the beginning: no caller waits for it. What has come
    /// of it is of use only where the rest can come in chunks.
    pub(super) fn give_up(&self, owner: OwnerId) -> bool {
        let mut state = self.state.lock();
        if state.owner != owner || state.end.is_some() {
            return false;
        }
        state.end = Some(End::Broken);
        if !state.wanted && !state.in_chunks {
            state.drop_unread();
        }
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

    /// Whether a caller waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        self.state.lock().wanted
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
        self.end == Some(End::Broken) && self.pieces.count() == 0
    }

    /// Drops all pieces, if no reader has read any.
    fn drop_unread(&mut self) {
        let mut positions = self.readers.iter();
        if !self.pieces.lacks_some() && positions.all(|position| position.next == 0) {
            self.pieces.clear();
        }
    }

    /// Drops the pieces that all have read.
    fn drop_read_pieces(&mut self) {
        let next = self.readers.iter().map(|position| position.next).min();
        self.pieces.drop_before(next.unwrap_or(usize::MAX));
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
