//! One NAR that is read ahead: filled by a worker, emptied by the caller.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::budget::Reservation;
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::transfer::stream::{Stream, Taken};
use crate::transfer::stripe::{Priority, URGENT};
use crate::wire::nar::NarError;

/// NARs up to this size, in bytes, are copied out of the buffers they came in, which are larger.
const SMALL: usize = 64 << 10;

/// Who fills a job. A worker that finds another token in there has lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transfer) struct Token(pub(super) u64);

pub(in crate::transfer) struct Job {
    pub(in crate::transfer) info: Arc<PathInfo>,
    pub(in crate::transfer) holders: Arc<[HostId]>,
    // Held while a piece is hashed, never over an await.
    inner: Mutex<Inner>,
    /// For the caller, who is one.
    changed: Notify,
    /// Of the parts it comes in, if it does.
    pub(super) priority: Priority,
}

struct Inner {
    owner: Token,
    /// Who is asked for it.
    host: HostId,
    /// The worker has come to it.
    begun: bool,
    /// The caller waits for it.
    wanted: bool,
    /// Taken by the caller when the job is broken.
    stream: Option<Stream>,
    ready: VecDeque<Bytes>,
    end: Option<End>,
    reservation: Reservation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it is there, and right.
    Complete,
    /// The caller has to get the rest by itself.
    Broken,
}

/// What came of feeding a job.
pub(in crate::transfer) enum Fed {
    /// There is more to come.
    More,
    /// It is complete and right.
    Complete,
    /// It is another worker's by now, or the caller's own.
    Lost,
    /// It is not what was promised: expected, got.
    Mismatch(String, String),
}

/// What the caller gets next.
pub(in crate::transfer) enum Next {
    Bytes(Bytes),
    /// That was all, and it is right.
    Complete,
    /// No more will come; this is how far it got.
    Broken(Box<Stream>),
}

impl Job {
    pub(super) fn new(
        info: Arc<PathInfo>,
        holders: Arc<[HostId]>,
        (owner, host): (Token, HostId),
        reservation: Reservation,
    ) -> Self {
        let stream = Some(Stream::new(&info));
        Self {
            info,
            holders,
            inner: Mutex::new(Inner {
                owner,
                host,
                begun: false,
                wanted: false,
                stream,
                ready: VecDeque::new(),
                end: None,
                reservation,
            }),
            changed: Notify::new(),
            priority: Arc::new(AtomicU64::new(owner.0 + 1)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's turn has come to fill it; whether it is still its own.
    pub(super) fn begin(&self, token: Token) -> bool {
        let mut inner = self.lock();
        let mine = inner.owner == token && inner.end.is_none();
        inner.begun |= mine;
        mine
    }

    /// Takes what is whole off the buffer.
    pub(super) fn feed(&self, token: Token, buf: &mut BytesMut) -> Result<Fed, NarError> {
        let mut inner = self.lock();
        let Inner {
            owner,
            stream: Some(stream),
            ready,
            end,
            ..
        } = &mut *inner
        else {
            return Ok(Fed::Lost);
        };
        if *owner != token || end.is_some() {
            return Ok(Fed::Lost);
        }
        match stream.take(buf)? {
            Taken::Nothing => return Ok(Fed::More),
            Taken::Pass(bytes) => ready.push_back(bytes),
            Taken::Complete => match stream.verify() {
                Ok(held) => {
                    ready.extend(compact(held));
                    *end = Some(End::Complete);
                }
                Err((expected, got)) => return Ok(Fed::Mismatch(expected, got)),
            },
        }
        let complete = *end == Some(End::Complete);
        drop(inner);
        self.changed.notify_one();
        Ok(if complete { Fed::Complete } else { Fed::More })
    }

    /// The worker cannot fill it. Whether it may be tried again from the beginning: nobody waits
    /// for it, and nothing of it has been passed on.
    pub(super) fn give_up(&self, token: Token) -> bool {
        let mut inner = self.lock();
        if inner.owner != token || inner.end.is_some() {
            return false;
        }
        inner.end = Some(End::Broken);
        let again = !inner.wanted && inner.ready.is_empty();
        drop(inner);
        self.changed.notify_one();
        again
    }

    /// The caller wants it. Whether there is still somebody, or something, to wait for.
    pub(super) fn want(&self) -> bool {
        let mut inner = self.lock();
        inner.wanted = true;
        self.priority.store(URGENT, Ordering::Relaxed);
        inner.end != Some(End::Broken) || !inner.ready.is_empty()
    }

    /// Lets another worker fill it, if its own has not begun.
    pub(super) fn steal(&self, token: Token, host: HostId) -> Option<HostId> {
        let mut inner = self.lock();
        if inner.begun || inner.end.is_some() {
            return None;
        }
        inner.owner = token;
        Some(std::mem::replace(&mut inner.host, host))
    }

    /// Who is asked for it, while it has not begun to come.
    pub(super) fn awaited_from(&self) -> Option<HostId> {
        let inner = self.lock();
        (!inner.begun && inner.end.is_none()).then_some(inner.host)
    }

    /// The host that fills it or has filled it.
    pub(in crate::transfer) fn host(&self) -> HostId {
        self.lock().host
    }

    pub(super) fn is_complete(&self) -> bool {
        self.lock().end == Some(End::Complete)
    }

    /// What comes next, for the caller.
    pub(in crate::transfer) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<Next> {
        let mut inner = self.lock();
        if let Some(bytes) = inner.ready.pop_front() {
            inner.reservation.fetched(bytes.len() as u64);
            return Some(Next::Bytes(bytes));
        }
        match inner.end? {
            End::Complete => Some(Next::Complete),
            End::Broken => {
                let mut stream = inner.stream.take()?;
                stream.roll_back();
                Some(Next::Broken(Box::new(stream)))
            }
        }
    }

    /// The caller waits no longer for whoever fills it: what follows in [`Job::next`] is what is
    /// there already, and then that it is broken.
    pub(in crate::transfer) fn abandon(&self) {
        let mut inner = self.lock();
        if inner.end.is_none() {
            inner.end = Some(End::Broken);
            drop(inner);
            self.changed.notify_one();
        }
    }
}

fn compact(pieces: Vec<Bytes>) -> Vec<Bytes> {
    if pieces.iter().map(Bytes::len).sum::<usize>() > SMALL {
        return pieces;
    }
    vec![Bytes::from(pieces.concat())]
}
