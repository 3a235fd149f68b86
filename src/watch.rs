//! A value that changes, and tasks that wait for its changes.
//!
//! Like tokio's channel of the same name, but waiting tasks are woken in the order in which they began to wait. Tokio
//! wakes them in a random order, so that no run of the simulation could be repeated.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Changes the value. When it is dropped, waiting receivers are woken.
pub struct Sender<T>(Arc<Watched<T>>);

/// Waits for changes.
pub struct Receiver<T> {
    watched: Arc<Watched<T>>,
    /// The change that was seen last.
    seen: u64,
}

/// The sender is gone, so there will be no change.
#[derive(Debug)]
pub struct Closed;

struct Watched<T> {
    // Held for as long as a caller looks at the value.
    value: Mutex<T>,
    changes: AtomicU64,
    is_closed: AtomicBool,
    changed: Notify,
}

impl<T> Sender<T> {
    /// A sender of a first value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Watched {
            value: Mutex::new(value),
            changes: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            changed: Notify::new(),
        }))
    }

    /// A receiver that has seen all changes so far.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver {
            seen: self.0.changes.load(Ordering::Acquire),
            watched: self.0.clone(),
        }
    }

    /// What `read` makes of the value as it is now.
    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.value.lock())
    }

    /// Changes the value.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.value.lock());
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// Counts all changes so far as seen.
    pub fn mark_seen(&mut self) {
        self.seen = self.watched.changes.load(Ordering::Acquire);
    }

    /// Waits for a change that was not seen yet, and counts it as seen.
    ///
    /// # Errors
    /// When the sender is gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let changed = self.watched.changed.notified();
            tokio::pin!(changed);
            // Registered before the check, so that no change is missed between check and wait.
            changed.as_mut().enable();
            let changes = self.watched.changes.load(Ordering::Acquire);
            if changes != self.seen {
                self.seen = changes;
                return Ok(());
            }
            if self.watched.is_closed.load(Ordering::Acquire) {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Waits until `suits` is true of the value, and gives what `read` makes of it then.
    ///
    /// # Errors
    /// When the sender is gone before that.
    pub async fn wait_for<R>(
        &mut self,
        suits: impl Fn(&T) -> bool,
        read: impl FnOnce(&T) -> R,
    ) -> Result<R, Closed> {
        loop {
            let is_closed = self.watched.is_closed.load(Ordering::Acquire);
            self.mark_seen();
            {
                let value = self.watched.value.lock();
                if suits(&value) {
                    return Ok(read(&value));
                }
            }
            if is_closed {
                return Err(Closed);
            }
            // The last change may have come just before the end.
            let _ = self.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_are_woken_in_their_order() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let (mut receiver, order) = (sender.subscribe(), order.clone());
                tokio::spawn(async move {
                    receiver
                        .wait_for(|value| *value == 1, |_| ())
                        .await
                        .unwrap();
                    order.lock().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_modify(|value| *value = 1);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_end_too() {
        let sender = Sender::new(());
        let mut receiver = sender.subscribe();
        sender.send_modify(|()| {});
        assert!(receiver.changed().await.is_ok());
        sender.send_modify(|()| {});
        receiver.mark_seen();
        drop(sender);
        assert!(receiver.changed().await.is_err());
        assert!(receiver.wait_for(|()| true, |()| ()).await.is_ok());
        assert!(receiver.wait_for(|()| false, |()| ()).await.is_err());
    }
}
