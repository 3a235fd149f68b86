//! One reader of a NAR that is read ahead.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::pieces::{Content, StoredPiece};
use super::{End, ReadaheadTask, SMALL_NAR, TaskState};
use crate::pool::HostId;
use crate::transfer::chunks::URGENT;
use crate::transfer::readahead::budget::Reservation;
use crate::transfer::readahead::spill::OpenSpill;
use crate::transfer::verify::{Piece, ResumePoint, Verifier};

/// How far one reader is.
pub(super) struct ReadPosition {
    pub(super) reader: u64,
    /// Which piece it comes to next.
    pub(super) next: usize,
    /// What it has read, of a NAR on disk.
    passed_on: Option<ResumePoint>,
    /// Each reader has a reservation for what it has not read, so that a caller which never reads takes no budget from
    /// the others.
    reservation: Reservation,
}

impl ReadPosition {
    pub(super) fn new(reader: u64, reservation: Reservation) -> Self {
        Self {
            reader,
            next: 0,
            passed_on: None,
            reservation,
        }
    }
}

/// What a reader gets next.
pub(in crate::transfer) enum ReadEvent {
    /// A piece from that host.
    Piece(Piece, HostId),
    /// All of it was read; the verifier at its end.
    Complete(Box<Verifier>),
    /// No more will come; the verifier behind what was read.
    Broken(Box<Verifier>),
    /// What has come cannot be read from the disk; a verifier that goes on behind what was read.
    Lost(Box<Verifier>),
}

/// Where it is.
enum Next {
    Event(ReadEvent),
    InFile(Arc<OpenSpill>, StoredPiece),
}

impl TaskState {
    /// A reader has got its next piece; `None` when there is no such reader.
    fn passed_on(&mut self, reader: u64, bytes: Bytes, stored: StoredPiece) -> Option<ReadEvent> {
        let is_on_disk = self.file.is_some();
        let position = self.position(reader)?;
        position.next += 1;
        position.reservation.fetched(bytes.len() as u64);
        if let Some(checkpoint) = stored.checkpoint.clone().filter(|_| is_on_disk) {
            let at = stored.at + bytes.len() as u64;
            position.passed_on = Some(ResumePoint { at, checkpoint });
        }
        self.drop_read_pieces();
        let checkpoint = stored.checkpoint;
        Some(ReadEvent::Piece(Piece { bytes, checkpoint }, stored.host))
    }

    /// No more will come.
    fn broken(&self, verifier: Box<Verifier>) -> ReadEvent {
        match self.is_blameless {
            true => ReadEvent::Lost(verifier),
            false => ReadEvent::Broken(verifier),
        }
    }
}

/// One reader of a task. What it has not read is kept as long as this lives.
pub(in crate::transfer) struct TaskReader {
    pub(in crate::transfer) task: Arc<ReadaheadTask>,
    id: u64,
}

impl TaskReader {
    pub(super) fn new(task: Arc<ReadaheadTask>, id: u64) -> Self {
        Self { task, id }
    }

    /// A caller waits for it now. Whether there is still something to wait for.
    pub(in crate::transfer::readahead) fn want(&self) -> bool {
        let mut state = self.task.state.lock();
        state.wanted = true;
        self.task.priority.store(URGENT, Ordering::Relaxed);
        !state.is_lost()
    }

    /// Whether its worker gave up before anything had come.
    pub(in crate::transfer::readahead) fn is_lost(&self) -> bool {
        self.task.state.lock().is_lost()
    }

    /// Waits for what comes next.
    pub(in crate::transfer) async fn next(&self) -> ReadEvent {
        loop {
            let changed = self.task.changed.notified();
            tokio::pin!(changed);
            // Registered before the check, so that no change is missed between check and wait.
            changed.as_mut().enable();
            match self.take() {
                Some(Next::Event(event)) => return event,
                Some(Next::InFile(file, piece)) => return self.read(&file, piece).await,
                None => changed.await,
            }
        }
    }

    fn take(&self) -> Option<Next> {
        let mut state = self.task.state.lock();
        let next = state.position(self.id)?.next;
        // Not before the worker has recorded what was wrong.
        if state.wrong && state.end.is_some() && next == 0 {
            let verifier = Box::new(Verifier::new(&self.task.info));
            return Some(Next::Event(state.broken(verifier)));
        }
        if let Some(stored) = state.pieces.get(next).cloned() {
            return match (stored.content.clone(), state.file.clone()) {
                (Content::Memory(bytes), _) => {
                    Some(Next::Event(state.passed_on(self.id, bytes, stored)?))
                }
                (Content::File { .. }, Some(file)) => Some(Next::InFile(file, stored)),
                (Content::File { .. }, None) => None,
            };
        }
        Some(Next::Event(match state.end? {
            End::Complete => ReadEvent::Complete(Box::new(state.verifier.clone())),
            End::Broken => {
                state.verifier.roll_back();
                state.broken(Box::new(state.verifier.clone()))
            }
        }))
    }

    /// Reads a piece from the file.
    async fn read(&self, file: &Arc<OpenSpill>, stored: StoredPiece) -> ReadEvent {
        let Content::File { len, digest } = stored.content else {
            return self.lost();
        };
        match file.read(stored.at, len, digest).await {
            Ok(bytes) => {
                let passed_on = self.task.state.lock().passed_on(self.id, bytes, stored);
                passed_on.unwrap_or_else(|| self.lost())
            }
            Err(error) => {
                if let Some(spill) = &self.task.spill {
                    spill.on_failure(&error);
                }
                self.lost()
            }
        }
    }

    /// What was passed on is known by its hash.
    fn lost(&self) -> ReadEvent {
        let (info, mut state) = (&self.task.info, self.task.state.lock());
        let passed_on = state.position(self.id).and_then(|it| it.passed_on.clone());
        ReadEvent::Lost(Box::new(match passed_on {
            Some(passed_on) => Verifier::resumed(info, passed_on),
            None => Verifier::new(info),
        }))
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
