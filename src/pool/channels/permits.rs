//! A fair semaphore whose limit can shrink below what is held.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

/// At most `limit` permits at a time, in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Permits {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    used: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// One permit; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Permits>);

impl Permits {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                limit,
                used: 0,
                waiting: VecDeque::new(),
            }),
        })
    }

    /// Waits for one, without a time limit. A caller that stops waiting loses
    /// only its position in the queue.
    pub(super) async fn acquire(self: &Arc<Self>) -> Permit {
        let waits = {
            let mut state = self.state.lock();
            if state.used < state.limit && state.waiting.is_empty() {
                state.used += 1;
                return Permit(self.clone());
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            receiver
        };
        match waits.await {
            Ok(permit) => permit,
            // Senders are dropped only when nobody waits.
            Err(_) => std::future::pending().await,
        }
    }

    /// How many are held.
    pub(super) fn used(&self) -> usize {
        self.state.lock().used
    }

    /// How many there may be.
    pub(super) fn limit(&self) -> usize {
        self.state.lock().limit
    }

    /// Sets how many may be held. Those above it are not handed out again once they are back.
    pub(super) fn set_limit(self: &Arc<Self>, limit: usize) {
        self.state.lock().limit = limit;
        self.hand_out();
    }

    fn hand_out(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                while state
                    .waiting
                    .front()
                    .is_some_and(oneshot::Sender::is_closed)
                {
                    state.waiting.pop_front();
                }
                if state.used >= state.limit {
                    return;
                }
                let Some(next) = state.waiting.pop_front() else {
                    return;
                };
                state.used += 1;
                next
            };
            // Without the lock: a permit whose receiver is gone comes back by its drop, which locks.
            drop(next.send(Permit(self.clone())));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state.lock().used -= 1;
        self.0.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    async fn is_there(permits: &Arc<Permits>) -> Option<Permit> {
        timeout(Duration::from_millis(20), permits.acquire())
            .await
            .ok()
    }

    #[tokio::test(start_paused = true)]
    async fn fewer_for_a_while_and_then_more() {
        let permits = Permits::new(3);
        let held = [
            permits.acquire().await,
            permits.acquire().await,
            permits.acquire().await,
        ];
        permits.set_limit(1);
        let [a, b, c] = held;
        drop((a, b));
        assert!(is_there(&permits).await.is_none());
        drop(c);
        let one = is_there(&permits).await;
        assert!(one.is_some() && is_there(&permits).await.is_none());
        permits.set_limit(2);
        assert!(is_there(&permits).await.is_some());
        assert_eq!((permits.used(), permits.limit()), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_first_is_served_first_and_who_left_is_passed_over() {
        let permits = Permits::new(1);
        let held = permits.acquire().await;
        let waits = |name: u8| {
            let permits = permits.clone();
            tokio::spawn(async move { (name, permits.acquire().await) })
        };
        let first = waits(1);
        yield_now().await;
        let second = waits(2);
        yield_now().await;
        first.abort();
        yield_now().await;
        drop(held);
        let (name, permit) = second.await.unwrap();
        assert_eq!((name, permits.used()), (2, 1));
        drop(permit);
        assert_eq!(permits.used(), 0);
    }
}
