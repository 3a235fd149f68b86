//! Connections that lie idle until they are needed, for a limited time.

use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a connection may lie idle. Then its process on the host is closed, also because the answers that
/// a `nix-store` keeps get older.
const LONGEST: Duration = Duration::from_secs(60);

/// The same for the one that was used last: an ssh master lives as long without sessions.
const LAST: Duration = Duration::from_secs(300);

/// Idle connections, the last used one at the end.
pub(super) struct Idle<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    items: Vec<(T, Instant)>,
    /// A task closes them when their time has come.
    is_watched: bool,
}

impl<T: Send + 'static> Idle<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                items: Vec::new(),
                is_watched: false,
            }),
        })
    }

    pub(super) fn push(self: &Arc<Self>, item: T) {
        let mut state = self.state.lock();
        state.items.push((item, Instant::now()));
        if !state.is_watched && tokio::runtime::Handle::try_current().is_ok() {
            state.is_watched = true;
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    pub(super) fn pop(&self) -> Option<T> {
        self.state.lock().items.pop().map(|(item, _)| item)
    }

    /// Takes the one with the highest `rank`, of equal ones the last used. Those without a rank stay.
    pub(super) fn take_best<R: Ord>(&self, rank: impl Fn(&T) -> Option<R>) -> Option<T> {
        let mut state = self.state.lock();
        let items = state.items.iter().enumerate();
        let ranked = items.filter_map(|(at, (item, _))| Some((rank(item)?, at)));
        let (_, at) = ranked.max()?;
        Some(state.items.remove(at).0)
    }

    /// Closes those that `is_good` is false for. Whether any is left.
    pub(super) fn retain(&self, mut is_good: impl FnMut(&mut T) -> bool) -> bool {
        let mut state = self.state.lock();
        state.items.retain_mut(|(item, _)| is_good(item));
        !state.items.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().items.len()
    }

    /// Closes all but `most`. Those with the smallest keys stay.
    pub(super) fn keep<K: Ord>(&self, most: usize, key: impl Fn(&T) -> K) {
        let mut state = self.state.lock();
        state.items.sort_by_key(|(item, _)| key(item));
        state.items.truncate(most);
        state.items.sort_by_key(|(_, since)| *since);
    }

    /// Closes those whose time is over. When to do so next, as long as there are any.
    fn end_old_ones(&self) -> Option<Instant> {
        let (now, mut state) = (Instant::now(), self.state.lock());
        let last = state.items.len().saturating_sub(1);
        let mut place = 0..;
        state.items.retain(|(_, since)| {
            let limit = if place.next() == Some(last) {
                LAST
            } else {
                LONGEST
            };
            now < *since + limit
        });
        let next = match state.items.as_slice() {
            [] => None,
            [(_, since)] => Some(*since + LAST),
            [(_, since), ..] => Some(*since + LONGEST),
        };
        state.is_watched = next.is_some();
        next
    }
}

/// Closes items in time. Ends with the last of them, or when the list is dropped.
async fn watch<T: Send + 'static>(idle: Weak<Idle<T>>) {
    loop {
        let next = match idle.upgrade() {
            Some(idle) => idle.end_old_ones(),
            None => return,
        };
        let Some(next) = next else { return };
        // Not longer at a time: another item may be the last used one by then.
        sleep_until(next.min(Instant::now() + LONGEST)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_lies_idle_for_ever() {
        let idle = Idle::new();
        for item in 0..3 {
            idle.push(item);
        }
        sleep(LONGEST - Duration::from_secs(1)).await;
        assert_eq!(idle.len(), 3);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(idle.len(), 1, "one is kept for longer");
        sleep(LAST).await;
        assert_eq!(idle.len(), 0);
        // Its task has ended, and begins anew.
        idle.push(4);
        assert_eq!(idle.pop(), Some(4));
        idle.push(5);
        sleep(2 * LAST).await;
        assert_eq!(idle.len(), 0);
    }
}
