//! Sends in the background what is in the queue of paths to push.
//!
//! Each host has its turn by itself, so that one that is down holds up no other. What failed is tried again after a pause
//! that grows; a path that its host refuses again and again, or that has vanished here, is given up.
//!
//! | what failed | pauses | given up |
//! | --- | --- | --- |
//! | the host cannot be reached, or ends the exchange | 5 s, 10 s, … 10 min, for all that it is to get | never |
//! | one path | the same, for that path | after [`PATH_TRIES_MAX`] tries |
//! | a path is not valid here any more | | at once |

mod batch;

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::folder::Environment;
use crate::pool::{Pool, exponential};
use crate::push::PushTotals;
use crate::push_queue::{PushQueue, QueueError};
use batch::HostOutcome;

/// The pause after a first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How often a path may fail by itself: its host refuses it, or its files here are not what they should be.
pub const PATH_TRIES_MAX: u32 = 10;

/// How often the queue is looked at, since another process may have changed it without a word.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How long after another process was found to send it is looked at again.
const OTHER_SENDER_INTERVAL: Duration = Duration::from_secs(2);

/// Sends what is queued.
pub struct PushSender {
    config: Config,
    environment: Environment,
    wake: Notify,
    /// Hosts that rest are tried at once.
    is_urgent: AtomicBool,
    has_work: AtomicBool,
    totals: Arc<PushTotals>,
    /// Connections to hosts that are to get something.
    pools: Mutex<HashMap<String, Arc<Pool>>>,
}

/// How a host did lately.
#[derive(Debug, Default)]
struct HostRest {
    failures: u32,
    until: Option<Instant>,
}

impl PushSender {
    /// A sender that reaches hosts as `config` says, for the queue in the folder that `environment` names. Nothing is opened
    /// yet.
    #[must_use]
    pub fn new(config: &Config, environment: Environment) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            environment,
            wake: Notify::new(),
            is_urgent: AtomicBool::new(false),
            // Until it is known.
            has_work: AtomicBool::new(true),
            totals: Arc::default(),
            pools: Mutex::default(),
        })
    }

    /// Something was added to the queue. With `is_urgent` also hosts that rest after a failure are tried.
    pub fn wake(&self, is_urgent: bool) {
        if is_urgent {
            self.is_urgent.store(true, Ordering::Relaxed);
        }
        self.has_work.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether something is queued.
    pub fn has_work(&self) -> bool {
        self.has_work.load(Ordering::Relaxed)
    }

    /// What it has sent, as JSON.
    pub fn status(&self) -> Value {
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        json!({
            "hasWork": self.has_work(),
            "sentPaths": of(&self.totals.sent),
            "sentBytes": of(&self.totals.sent_bytes),
            "wireBytes": of(&self.totals.wire_bytes),
        })
    }

    /// Sends whatever is queued and will be. Ends never; dropping it ends all work, and what was not sent stays queued.
    pub async fn run(self: Arc<Self>) {
        let mut rests = HashMap::new();
        loop {
            let next = match self.send_due(&mut rests).await {
                Ok(next) => next,
                Err(error) => {
                    log::warn!("{error}");
                    Some(LONGEST_PAUSE)
                }
            };
            self.pools.lock().clear();
            let is_woken = match next {
                Some(pause) => {
                    let woken = timeout(pause.min(POLL_INTERVAL), self.wake.notified());
                    woken.await.is_ok()
                }
                None => {
                    self.has_work.store(false, Ordering::Relaxed);
                    self.wake.notified().await;
                    true
                }
            };
            if is_woken && self.is_urgent.swap(false, Ordering::Relaxed) {
                rests.clear();
            }
        }
    }

    /// Sends what is due, and what becomes due meanwhile. Gives the time until something is due again; `None` when the
    /// queue is empty.
    async fn send_due(
        self: &Arc<Self>,
        rests: &mut HashMap<String, HostRest>,
    ) -> Result<Option<Duration>, QueueError> {
        let environment = self.environment.clone();
        let opened = blocking(move || PushQueue::open_existing(&environment)).await?;
        let Some(queue) = opened.map(Arc::new) else {
            return Ok(None);
        };
        let of_queue = queue.clone();
        let locked = blocking(move || match of_queue.outlook()? {
            (0, _) => Ok(None),
            _ => of_queue.try_send().map(Some),
        });
        let _lock = match locked.await? {
            None => return Ok(None),
            Some(None) => return Ok(Some(OTHER_SENDER_INTERVAL)),
            Some(Some(lock)) => lock,
        };
        let of_queue = queue.clone();
        blocking(move || of_queue.sweep()).await?;
        let (mut at_work, mut busy) = (JoinSet::new(), HashSet::new());
        loop {
            let of_queue = queue.clone();
            let hosts = blocking(move || of_queue.hosts()).await?;
            if hosts.is_empty() && busy.is_empty() {
                return Ok(None);
            }
            let mut next = POLL_INTERVAL;
            for (host, due) in hosts {
                let rest = rests.get(&host).and_then(|rest| rest.until);
                let rest = rest.map(|until| until.saturating_duration_since(Instant::now()));
                let due = due.duration_since(SystemTime::now()).unwrap_or_default();
                let pause = due.max(rest.unwrap_or_default());
                if !pause.is_zero() {
                    next = next.min(pause);
                } else if busy.insert(host.clone()) {
                    let (sender, queue) = (self.clone(), queue.clone());
                    at_work.spawn(async move {
                        let outcome = sender.send_to(&queue, &host).await;
                        (host, outcome)
                    });
                }
            }
            if busy.is_empty() {
                return Ok(Some(next));
            }
            tokio::select! {
                done = at_work.join_next() => if let Some(Ok((host, outcome))) = done {
                    busy.remove(&host);
                    note(rests.entry(host).or_default(), outcome?);
                },
                () = self.wake.notified() => if self.is_urgent.swap(false, Ordering::Relaxed) {
                    rests.clear();
                },
                () = sleep(next) => {}
            }
        }
    }
}

/// Remembers how a host did.
fn note(rest: &mut HostRest, outcome: HostOutcome) {
    match outcome {
        HostOutcome::Answered => *rest = HostRest::default(),
        HostOutcome::Failed => {
            rest.until = Some(Instant::now() + pause_after(rest.failures));
            rest.failures += 1;
        }
    }
}

/// The pause after a failure that had so many before it.
fn pause_after(failures: u32) -> Duration {
    exponential(FIRST_PAUSE, LONGEST_PAUSE, failures.saturating_add(1))
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        // It panicked, which was reported, or the process ends.
        Err(_) => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_ten_minutes() {
        let pauses = [0, 1, 2, 6, 7, 40].map(|failures| pause_after(failures).as_secs());
        assert_eq!(pauses, [5, 10, 20, 320, 600, 600]);
    }
}
