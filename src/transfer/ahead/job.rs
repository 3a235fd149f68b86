//! One NAR that is read ahead: filled by a worker, read by those who asked for it.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::budget::Reservation;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::error::Unfit;
use crate::transfer::piece::Piece;
use crate::transfer::stream::{Refused, Stream, Taken};
use crate::transfer::stripe::{Priority, URGENT};

/// NARs up to this size, in bytes, are copied out of the buffers they came in, which are larger.
const SMALL: usize = 64 << 10;

/// Who fills a job. A worker that finds another token in there has lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transfer) struct Token(pub(super) u64);

pub(in crate::transfer) struct Job {
    pub(in crate::transfer) info: Arc<PathInfo>,
    pub(in crate::transfer) holders: Arc<[HostId]>,
    // Held while a piece is hashed.
    inner: Mutex<Inner>,
    /// For the readers.
    changed: Notify,
    /// Of the parts it comes in, if it does.
    pub(super) priority: Priority,
}

struct Inner {
    owner: Token,
    /// Who is asked for it.
    host: HostId,
    /// Counts what comes from there: of this NAR, or of those that were asked for before it.
    meter: Arc<AtomicU64>,
    /// The worker has come to it.
    begun: bool,
    /// Somebody waits for it.
    wanted: bool,
    stream: Stream,
    /// What has come and not been read by all, with who sent it.
    ready: VecDeque<(Piece, HostId)>,
    /// How many pieces came before those.
    gone: usize,
    readers: Vec<Place>,
    next_reader: u64,
    end: Option<End>,
}

/// How far one reader is.
struct Place {
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

/// What came of feeding a job.
pub(in crate::transfer) enum Fed {
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
pub(in crate::transfer) enum Next {
    /// From that host.
    Piece(Piece, HostId),
    /// That was all, and it is right.
    Complete,
    /// No more will come; this is how far it got.
    Broken(Box<Stream>),
}

impl Job {
    /// A job, with its first reader.
    pub(super) fn start(
        info: Arc<PathInfo>,
        holders: Arc<[HostId]>,
        (owner, host): (Token, HostId),
        room: Reservation,
    ) -> Reader {
        let stream = Stream::new(&info);
        let job = Self {
            info,
            holders,
            inner: Mutex::new(Inner {
                owner,
                host,
                meter: Arc::default(),
                begun: false,
                wanted: false,
                stream,
                ready: VecDeque::new(),
                gone: 0,
                readers: vec![Place {
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
        Reader {
            job: Arc::new(job),
            id: 0,
        }
    }

    /// One more reader, as long as nothing of it is gone, and if `reserve` gives room for all of it.
    pub(super) fn join(
        self: &Arc<Self>,
        reserve: impl FnOnce() -> Option<Reservation>,
    ) -> Option<Reader> {
        let mut inner = self.inner.lock();
        if inner.gone > 0 || inner.readers.is_empty() || inner.end == Some(End::Broken) {
            return None;
        }
        let room = reserve()?;
        let id = inner.next_reader;
        inner.next_reader += 1;
        inner.readers.push(Place {
            reader: id,
            next: 0,
            room,
        });
        drop(inner);
        Some(Reader {
            job: self.clone(),
            id,
        })
    }

    /// Whether this worker is the one that is to fill it.
    pub(super) fn is_of(&self, token: Token) -> bool {
        let inner = self.inner.lock();
        inner.owner == token && inner.end.is_none()
    }

    /// The worker's turn has come to fill it; whether it is still its own.
    pub(super) fn begin(&self, token: Token) -> bool {
        let mut inner = self.inner.lock();
        let mine = inner.owner == token && inner.end.is_none();
        inner.begun |= mine;
        mine
    }

    /// Takes what is whole off the buffer, into which `host` has sent something.
    pub(super) fn feed(
        &self,
        token: Token,
        buf: &mut BytesMut,
        host: HostId,
    ) -> Result<Fed, Refused> {
        let mut inner = self.inner.lock();
        let Inner {
            owner,
            stream,
            ready,
            end,
            ..
        } = &mut *inner;
        if *owner != token || end.is_some() {
            return Ok(Fed::Lost);
        }
        let before = ready.len();
        let fed = loop {
            match stream.take(buf)? {
                Taken::Nothing if ready.len() == before => return Ok(Fed::More),
                Taken::Nothing => break Fed::More,
                Taken::Pass(piece) => ready.push_back((piece, host)),
                Taken::Complete => match stream.verify() {
                    Ok(held) => {
                        ready.extend(compact(held).into_iter().map(|piece| (piece, host)));
                        *end = Some(End::Complete);
                        break Fed::Complete;
                    }
                    Err(unfit) => return Ok(Fed::Unfit(unfit)),
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
    pub(super) fn give_up(&self, token: Token) -> bool {
        let mut inner = self.inner.lock();
        if inner.owner != token || inner.end.is_some() {
            return false;
        }
        inner.end = Some(End::Broken);
        let again = !inner.wanted && inner.ready.is_empty();
        drop(inner);
        self.changed.notify_waiters();
        again
    }

    /// Lets another worker fill it, if its own has not begun.
    pub(super) fn steal(&self, token: Token, host: HostId) -> Option<HostId> {
        let mut inner = self.inner.lock();
        if inner.begun || inner.end.is_some() {
            return None;
        }
        inner.owner = token;
        Some(std::mem::replace(&mut inner.host, host))
    }

    /// Who is asked for it, while it has not begun to come.
    pub(super) fn awaited_from(&self) -> Option<HostId> {
        let inner = self.inner.lock();
        (!inner.begun && inner.end.is_none()).then_some(inner.host)
    }

    /// Whoever fills it counts there what comes.
    pub(super) fn set_meter(&self, token: Token, meter: &Arc<AtomicU64>) {
        let mut inner = self.inner.lock();
        if inner.owner == token {
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

impl Inner {
    fn place(&mut self, reader: u64) -> Option<&mut Place> {
        self.readers.iter_mut().find(|place| place.reader == reader)
    }

    fn is_lost(&self) -> bool {
        self.end == Some(End::Broken) && self.gone + self.ready.len() == 0
    }

    /// Forgets what all have read.
    fn forget_read(&mut self) {
        let next = self.readers.iter().map(|place| place.next).min();
        let next = next.unwrap_or(usize::MAX);
        while self.gone < next && self.ready.pop_front().is_some() {
            self.gone += 1;
        }
    }
}

/// Somebody for whom a NAR is read ahead. What is not read yet is kept as long as this lives.
pub(in crate::transfer) struct Reader {
    pub(in crate::transfer) job: Arc<Job>,
    id: u64,
}

impl Reader {
    /// It is wanted now. Whether there is still somebody, or something, to wait for.
    pub(super) fn want(&self) -> bool {
        let mut inner = self.job.inner.lock();
        inner.wanted = true;
        self.job.priority.store(URGENT, Ordering::Relaxed);
        !inner.is_lost()
    }

    /// Whoever was to fill it gave up before anything had come.
    pub(super) fn is_lost(&self) -> bool {
        self.job.inner.lock().is_lost()
    }

    /// What comes next.
    pub(in crate::transfer) async fn next(&self) -> Next {
        loop {
            let changed = self.job.changed.notified();
            tokio::pin!(changed);
            // Before the look: what comes between look and wait must not be missed.
            changed.as_mut().enable();
            if let Some(next) = self.take() {
                return next;
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<Next> {
        let mut inner = self.job.inner.lock();
        let gone = inner.gone;
        let next = inner.place(self.id)?.next;
        if let Some((piece, host)) = inner.ready.get(next - gone).cloned() {
            let place = inner.place(self.id)?;
            place.next += 1;
            place.room.fetched(piece.bytes.len() as u64);
            inner.forget_read();
            return Some(Next::Piece(piece, host));
        }
        match inner.end? {
            End::Complete => Some(Next::Complete),
            End::Broken => {
                inner.stream.roll_back();
                Some(Next::Broken(Box::new(inner.stream.clone())))
            }
        }
    }

    /// Nobody waits any longer for whoever fills it: what follows in [`Reader::next`] is what is
    /// there already, and then that it is broken.
    pub(in crate::transfer) fn abandon(&self) {
        let mut inner = self.job.inner.lock();
        if inner.end.is_none() {
            inner.end = Some(End::Broken);
            drop(inner);
            self.job.changed.notify_waiters();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.job.inner.lock();
        inner.readers.retain(|place| place.reader != self.id);
        inner.forget_read();
        // Nobody wants it any more. A small one may come all the same: to stop it would cost the
        // connection.
        let large = self.job.info.nar_size > super::SMALL_NAR;
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
