//! Those who bring the parts: one shell on one host each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::parts::{Channel, Parts};
use crate::model::PathInfo;
use crate::pool::{HostId, ShellLease};
use crate::remote::RemoteError;
use crate::transfer::book::Book;
use crate::transfer::rates::Owed;
use crate::wire::nar::layout::Layout;

/// How many parts a channel is asked for ahead: one on its way, one to follow without a pause.
const AHEAD: usize = 2;

/// How often a channel without work looks whether another one is late.
const LOOK: Duration = Duration::from_millis(100);

/// What the channels and the caller share.
pub(super) struct Stripes {
    pub(super) info: PathInfo,
    pub(super) book: Arc<Book>,
    // Held for a few instructions, never over an await.
    state: Mutex<State>,
    /// For the caller.
    arrived: Notify,
    /// For channels without work.
    room: watch::Sender<()>,
}

struct State {
    parts: Parts,
    /// Channels that bring something, or try to.
    at_work: usize,
    channels: u64,
}

impl Stripes {
    pub(super) fn new(info: PathInfo, book: Arc<Book>, from: u64) -> Self {
        let parts = Parts::new(from..info.nar_size);
        Self {
            info,
            book,
            state: Mutex::new(State {
                parts,
                at_work: 0,
                channels: 0,
            }),
            arrived: Notify::new(),
            room: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next part in order; `None` when nobody is left to bring it, or all has been taken.
    pub(super) async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.lock();
                if let Some(bytes) = state.parts.take() {
                    drop(state);
                    self.room.send_replace(());
                    return Some(bytes);
                }
                if state.at_work == 0 || state.parts.is_done() {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// One more channel.
    pub(super) fn enter(self: &Arc<Self>) -> Seat {
        let mut state = self.lock();
        state.at_work += 1;
        state.channels += 1;
        Seat {
            channel: Channel(state.channels),
            stripes: self.clone(),
        }
    }
}

/// A channel's place. When it is dropped, what the channel owes is for others.
pub(super) struct Seat {
    channel: Channel,
    stripes: Arc<Stripes>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.stripes.lock();
        state.at_work -= 1;
        state.parts.lost(self.channel);
        drop(state);
        self.stripes.arrived.notify_one();
        self.stripes.room.send_replace(());
    }
}

/// Brings parts from `host` over up to `channels` channels, if its account has a shell and it has
/// the NAR.
pub(super) async fn lead(seat: Seat, host: HostId, channels: usize) {
    let stripes = seat.stripes.clone();
    let (book, info) = (&stripes.book, &stripes.info);
    let Ok(Some(mut shell)) = book.pool.shell(host).await else {
        return;
    };
    let layout = match shell.list(&info.path).await {
        Ok(Some(layout)) if layout.nar_size() == info.nar_size => layout,
        Ok(_) => {
            let host = book.pool.host(host);
            log::debug!("{host}: {} cannot be read there in parts", info.path);
            return;
        }
        Err(error) => return blame(&stripes, host, error).await,
    };
    // They end with this task.
    let mut others = JoinSet::new();
    for _ in 1..channels {
        let (seat, layout) = (stripes.enter(), layout.clone());
        others.spawn(async move {
            if let Ok(Some(shell)) = seat.stripes.book.pool.shell(host).await {
                work(seat, host, shell, layout).await;
            }
        });
    }
    work(seat, host, shell, layout).await;
    while others.join_next().await.is_some() {}
}

async fn work(seat: Seat, host: HostId, mut shell: ShellLease, layout: Layout) {
    let stripes = &seat.stripes;
    let mut room = stripes.room.subscribe();
    let mut owed: VecDeque<(u64, Owed)> = VecDeque::new();
    loop {
        room.borrow_and_update();
        let mut missing = true;
        while owed.len() < AHEAD && missing {
            let (part, (start, len)) = {
                let mut state = stripes.lock();
                missing = state.parts.is_missing_some();
                match state.parts.next(seat.channel, Instant::now()) {
                    Some(part) => (part, state.parts.range(part)),
                    None => break,
                }
            };
            shell.request(&layout.segment(start, len));
            owed.push_back((part, stripes.book.rates.ask(host, len)));
        }
        let Some((part, mut due)) = owed.pop_front() else {
            if !missing {
                return;
            }
            let _ = timeout(LOOK, room.changed()).await;
            continue;
        };
        match shell.segment().await {
            Ok(bytes) => {
                due.received(bytes.len() as u64);
                let mut state = stripes.lock();
                state
                    .parts
                    .arrived(part, bytes, seat.channel, Instant::now());
                drop(state);
                stripes.arrived.notify_one();
            }
            Err(error) => return blame(stripes, host, error).await,
        }
    }
}

async fn blame(stripes: &Stripes, host: HostId, error: RemoteError) {
    let error = Arc::new(error);
    // A shell that ends, or files that change, say nothing about the serve loop.
    if matches!(
        *error,
        RemoteError::Disconnected { .. } | RemoteError::NotAsListed { .. }
    ) {
        log::debug!("{error}");
    } else {
        stripes.book.pool.failed(host, &error).await;
    }
}
