//! Connections that lie idle until they are needed, for a limited time.

use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a connection may lie idle. Then its process on the host is closed, also because the answers that
/// a `nix-store` keeps get older.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for the one that was used last: an ssh master lives as long without sessions.
const LAST_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Idle connections, the last used one at the end.
pub(super) struct IdleList<T> {
    idle: Mutex<IdleItems<T>>,
}

struct IdleItems<T> {
    items: Vec<(T, Instant)>,
    /// A task closes them when their time has come.
    has_closer: bool,
}

impl<T: Send + 'static> IdleList<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::new(IdleItems {
                items: Vec::new(),
                has_closer: false,
            }),
        })
    }

    pub(super) fn push(self: &Arc<Self>, item: T) {
        let mut idle = self.idle.lock();
        idle.items.push((item, Instant::now()));
        if !idle.has_closer && tokio::runtime::Handle::try_current().is_ok() {
            idle.has_closer = true;
            tokio::spawn(close_in_time(Arc::downgrade(self)));
        }
    }

    pub(super) fn pop(&self) -> Option<T> {
        self.idle.lock().items.pop().map(|(item, _)| item)
    }

    /// Takes the one with the highest `rank`, of equal ones the last used. Those without a rank stay.
    pub(super) fn take_best<R: Ord>(&self, rank: impl Fn(&T) -> Option<R>) -> Option<T> {
        let mut idle = self.idle.lock();
        let items = idle.items.iter().enumerate();
        let ranked = items.filter_map(|(at, (item, _))| Some((rank(item)?, at)));
        let (_, at) = ranked.max()?;
        Some(idle.items.remove(at).0)
    }

    /// Closes those that `is_good` is false for. Whether any is left.
    pub(super) fn retain(&self, mut is_good: impl FnMut(&mut T) -> bool) -> bool {
        let mut idle = self.idle.lock();
        idle.items.retain_mut(|(item, _)| is_good(item));
        !idle.items.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.idle.lock().items.len()
    }

    /// Closes all but `most`. Those with the smallest keys stay.
    pub(super) fn keep<K: Ord>(&self, most: usize, key: impl Fn(&T) -> K) {
        let mut idle = self.idle.lock();
        idle.items.sort_by_key(|(item, _)| key(item));
        idle.items.truncate(most);
        idle.items.sort_by_key(|(_, since)| *since);
    }

    /// Closes those whose time is over. When to do so next, as long as there are any.
    fn close_expired(&self) -> Option<Instant> {
        let (now, mut idle) = (Instant::now(), self.idle.lock());
        let last = idle.items.len().saturating_sub(1);
        let mut place = 0..;
        idle.items.retain(|(_, since)| {
            let limit = if place.next() == Some(last) {
                LAST_IDLE_TIMEOUT
            } else {
                IDLE_TIMEOUT
            };
            now < *since + limit
        });
        let next = match idle.items.as_slice() {
            [] => None,
            [(_, since)] => Some(*since + LAST_IDLE_TIMEOUT),
            [(_, since), ..] => Some(*since + IDLE_TIMEOUT),
        };
        idle.has_closer = next.is_some();
        next
    }
}

/// Closes items in time. Ends with the last of them, or when the list is dropped.
async fn close_in_time<T: Send + 'static>(idle: Weak<IdleList<T>>) {
    loop {
        let next = match idle.upgrade() {
            Some(idle) => idle.close_expired(),
            None => return,
        };
        let Some(next) = next else { return };
        // Not longer at a time: another item may be the last used one by then.
        sleep_until(next.min(Instant::now() + IDLE_TIMEOUT)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_lies_idle_for_ever() {
        let idle = IdleList::new();
        for item in 0..3 {
            idle.push(item);
        }
        sleep(IDLE_TIMEOUT - Duration::from_secs(1)).await;
        assert_eq!(idle.len(), 3);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(idle.len(), 1, "one is kept for longer");
        sleep(LAST_IDLE_TIMEOUT).await;
        assert_eq!(idle.len(), 0);
        // Its task has ended, and begins anew.
        idle.push(4);
        assert_eq!(idle.pop(), Some(4));
        idle.push(5);
        sleep(2 * LAST_IDLE_TIMEOUT).await;
        assert_eq!(idle.len(), 0);
    }
}
