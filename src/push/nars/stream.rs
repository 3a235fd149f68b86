//! A large NAR on its way: one thread reads it, one or more hosts take it.
//!
//! What is read and not yet taken by all is bounded. While it is full the reader waits for the slowest host, but not
//! while another one has nothing to do: then the slowest one is left behind and reads by itself from where it is. The
//! beginning is kept for a moment for those that begin a little later.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use super::{broken_off, read};
use crate::local_store::LocalStore;
use crate::model::PathInfo;
use crate::push::PathFault;

/// How many bytes may be read ahead for one host, and for several.
const AHEAD_MAX: usize = 1 << 20;
pub(super) const SHARED_AHEAD_MAX: usize = 4 << 20;

/// How long a host that has nothing to do waits for one that is slower.
const LAG: Duration = Duration::from_millis(300);

/// For how long nobody waits again for hosts that begin later, once that was in vain.
const PAUSE_OF_PATIENCE: Duration = Duration::from_secs(5);

/// How often the reader looks whether it has to.
const TICK: Duration = Duration::from_millis(50);

/// What reader and hosts share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is room again.
    room: Condvar,
    /// There is more to take, or the end.
    more: Notify,
    max: usize,
    /// How many hosts are likely to want it.
    hosts: usize,
    patience: Arc<Patience>,
    store: Arc<LocalStore>,
    info: PathInfo,
}

/// Whether it is worth waiting for hosts that begin later.
#[derive(Default)]
pub(super) struct Patience(Mutex<Option<Instant>>);

impl Patience {
    /// Whether it was in vain a moment ago.
    fn is_over(&self) -> bool {
        self.0.lock().is_some_and(|until| Instant::now() < until)
    }

    fn was_in_vain(&self) {
        *self.0.lock() = Some(Instant::now() + PAUSE_OF_PATIENCE);
    }
}

#[derive(Default)]
struct State {
    /// Others may still join: nothing is dropped.
    is_open: bool,
    /// How many chunks all hosts have taken.
    first: usize,
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// How the reading ended.
    end: Option<Result<(), PathFault>>,
    /// How many chunks each host has taken; `None` of one that takes no more.
    taken: Vec<Option<usize>>,
}

impl State {
    /// Drops what all have taken.
    fn drop_taken(&mut self) {
        if self.is_open {
            return;
        }
        let Some(least) = self.taken.iter().flatten().min().copied() else {
            return;
        };
        while self.first < least
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.first += 1;
            self.bytes -= chunk.len();
        }
    }

    /// Whether some host has taken everything.
    fn is_one_starved(&self) -> bool {
        let read = self.first + self.chunks.len();
        self.taken.contains(&Some(read))
    }

    /// Leaves the slowest behind: those that another one waits for.
    fn leave_slowest_behind(&mut self) {
        let first = self.first;
        for taken in &mut self.taken {
            taken.take_if(|taken| *taken == first);
        }
        self.drop_taken();
    }
}

impl Shared {
    /// Passes a chunk on. `false` when nobody wants any more.
    fn push(&self, chunk: Bytes) -> bool {
        let mut state = self.state.lock();
        let mut starved_since = None;
        while state.bytes >= self.max {
            if state.taken.iter().all(Option::is_none) {
                return false;
            }
            // Only then does waiting cost anything.
            if !state.is_one_starved() {
                starved_since = None;
            } else {
                let since: Instant = *starved_since.get_or_insert_with(Instant::now);
                let waited = since.elapsed() >= LAG;
                if state.is_open && (waited || self.patience.is_over()) {
                    if waited {
                        self.patience.was_in_vain();
                    }
                    state.is_open = false;
                    state.drop_taken();
                    starved_since = None;
                    continue;
                }
                if waited {
                    state.leave_slowest_behind();
                    self.more.notify_waiters();
                    continue;
                }
            }
            self.room.wait_for(&mut state, TICK);
        }
        if state.taken.iter().all(Option::is_none) {
            return false;
        }
        state.bytes += chunk.len();
        state.chunks.push_back(chunk);
        drop(state);
        self.more.notify_waiters();
        true
    }

    fn end(&self, end: Result<(), PathFault>) {
        self.state.lock().end = Some(end);
        self.more.notify_waiters();
    }
}

/// Ends a NAR whose reader breaks off, so that nobody waits for it for ever.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state
            .end
            .get_or_insert_with(|| Err(broken_off(&self.0.info)));
        drop(state);
        self.0.more.notify_waiters();
    }
}

/// One host's way through a NAR.
pub(in crate::push) struct NarStream {
    shared: Arc<Shared>,
    /// Which of those that take from it.
    index: usize,
    /// Bytes taken so far.
    offset: u64,
}

/// What can be taken now.
enum Taken {
    Chunk(Bytes),
    End(Result<(), PathFault>),
    LeftBehind,
    NotYet,
}

impl NarStream {
    /// Begins to read.
    pub(super) fn start(
        store: Arc<LocalStore>,
        info: PathInfo,
        hosts: usize,
        patience: &Arc<Patience>,
    ) -> Self {
        Self::start_at(store, info, (hosts, patience), 0)
    }

    fn start_at(
        store: Arc<LocalStore>,
        info: PathInfo,
        (hosts, patience): (usize, &Arc<Patience>),
        offset: u64,
    ) -> Self {
        let is_shared = hosts > 1;
        let state = State {
            is_open: is_shared,
            taken: vec![Some(0)],
            ..State::default()
        };
        log::debug!("{} is read from {offset}", info.path);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            room: Condvar::new(),
            more: Notify::new(),
            max: if is_shared {
                SHARED_AHEAD_MAX
            } else {
                AHEAD_MAX
            },
            hosts,
            patience: patience.clone(),
            store,
            info,
        });
        let stream = Self {
            shared: shared.clone(),
            index: 0,
            offset,
        };
        // Ends soon after the last host has let go of it.
        drop(tokio::task::spawn_blocking(move || {
            let _guard = EndGuard(shared.clone());
            let mut skip = offset;
            let mut pass_on = |mut chunk: Bytes| {
                let skipped = skip.min(chunk.len() as u64);
                skip -= skipped;
                chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
                chunk.is_empty() || shared.push(chunk)
            };
            match read(&shared.store, &shared.info, &mut pass_on) {
                Ok(Some(last)) => {
                    if pass_on(last) {
                        shared.end(Ok(()));
                    }
                }
                Ok(None) => {}
                Err(fault) => shared.end(Err(fault)),
            }
        }));
        stream
    }

    /// Joins a reader of whose chunks none is gone yet.
    pub(super) fn join(shared: Arc<Shared>) -> Option<Self> {
        let mut state = shared.state.lock();
        // Once nobody wants it any more, only what was read to its end is whole.
        let is_wanted =
            state.taken.iter().any(Option::is_some) || matches!(state.end, Some(Ok(())));
        if !state.is_open || !is_wanted {
            return None;
        }
        let index = state.taken.len();
        state.taken.push(Some(0));
        state.is_open = state.taken.len() < shared.hosts;
        state.drop_taken();
        shared.room.notify_one();
        drop(state);
        Some(Self {
            shared,
            index,
            offset: 0,
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The next bytes; `None` when all have been given out, which are those of the registered hash.
    ///
    /// # Errors
    /// When the files cannot be read or have changed. At least one byte has not been given out then.
    pub(in crate::push) async fn next(&mut self) -> Result<Option<Bytes>, PathFault> {
        loop {
            let taken = {
                let shared = self.shared.clone();
                let mut more = std::pin::pin!(shared.more.notified());
                more.as_mut().enable();
                match self.take() {
                    Taken::NotYet => {
                        more.await;
                        continue;
                    }
                    taken => taken,
                }
            };
            match taken {
                Taken::Chunk(chunk) => {
                    self.offset += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Taken::End(end) => return end.map(|()| None),
                Taken::LeftBehind => {
                    let (store, info) = (self.shared.store.clone(), self.shared.info.clone());
                    log::debug!("{} is read once more for a slower host", info.path);
                    let patience = self.shared.patience.clone();
                    *self = Self::start_at(store, info, (1, &patience), self.offset);
                }
                Taken::NotYet => {}
            }
        }
    }

    fn take(&self) -> Taken {
        let mut state = self.shared.state.lock();
        let Some(taken) = state.taken[self.index] else {
            return Taken::LeftBehind;
        };
        if let Some(chunk) = state.chunks.get(taken - state.first).cloned() {
            state.taken[self.index] = Some(taken + 1);
            state.drop_taken();
            self.shared.room.notify_one();
            return Taken::Chunk(chunk);
        }
        match &state.end {
            Some(end) => Taken::End(end.clone()),
            None => Taken::NotYet,
        }
    }
}

impl Drop for NarStream {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.taken[self.index] = None;
        state.drop_taken();
        self.shared.room.notify_one();
    }
}
