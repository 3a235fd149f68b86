//! Questions of many callers that go out together: those that come while others are on their way wait for them, and are then
//! one batch.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;

use crate::watch;

/// Gathers keys into batches.
pub(super) struct Gather<K, V> {
    /// The batch that has not gone out yet: more keys may join.
    open: Mutex<Option<Arc<Batch<K, V>>>>,
    permits: Semaphore,
    /// How many keys a batch has at most.
    keys_max: usize,
}

/// Keys that are asked about together.
pub(super) struct Batch<K, V> {
    keys: Mutex<Vec<K>>,
    /// Ends when all is answered that will be.
    answers: watch::Sender<HashMap<K, V>>,
}

/// What becomes known about the keys of a batch.
pub(super) type Answers<K, V> = watch::Receiver<HashMap<K, V>>;

impl<K: Eq + Hash, V> Gather<K, V> {
    /// At most `at_once` batches are on their way, each of `keys_max` keys at most.
    pub(super) fn new(at_once: usize, keys_max: usize) -> Self {
        Self {
            open: Mutex::default(),
            permits: Semaphore::new(at_once),
            keys_max,
        }
    }

    /// Adds a key to the batch that goes out next. For a new batch, `start` is to start a task which alone keeps it, so that
    /// those who wait notice its end.
    pub(super) fn join(&self, key: K, start: impl FnOnce(Arc<Batch<K, V>>)) -> Answers<K, V> {
        let mut open = self.open.lock();
        let new = || {
            let batch = Arc::new(Batch {
                keys: Mutex::default(),
                answers: watch::Sender::new(HashMap::new()),
            });
            start(batch.clone());
            batch
        };
        let batch = open.get_or_insert_with(new).clone();
        let mut keys = batch.keys.lock();
        if !keys.contains(&key) {
            keys.push(key);
        }
        if keys.len() >= self.keys_max {
            *open = None;
        }
        batch.answers.subscribe()
    }

    /// Waits until the batch may go out. Gives its keys, and what others wait for until it is dropped.
    pub(super) async fn close(
        &self,
        batch: &Arc<Batch<K, V>>,
    ) -> (Vec<K>, Option<SemaphorePermit<'_>>) {
        // Lets questions join that come at the same moment.
        yield_now().await;
        // It is never closed.
        let permit = self.permits.acquire().await.ok();
        let mut open = self.open.lock();
        open.take_if(|open| Arc::ptr_eq(open, batch));
        (std::mem::take(&mut *batch.keys.lock()), permit)
    }
}

impl<K, V> Batch<K, V> {
    pub(super) fn answer(&self, change: impl FnOnce(&mut HashMap<K, V>)) {
        self.answers.send_modify(change);
    }
}
