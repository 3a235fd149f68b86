//! One question to all hosts.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::health::Standing;
use super::slot::{Lease, Probe, Slot};
use super::{HostId, Pool};
use crate::model::{PathInfo, StorePath};
use crate::remote::{RemoteError, Request, closure, path_infos};

/// A host that has a path, and what it knows about it.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The host.
    pub host: HostId,
    /// Its info.
    pub info: Arc<PathInfo>,
}

/// What the hosts answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// For each path that is there, who has it, in host order.
    pub holders: HashMap<StorePath, Vec<Holder>>,
    /// Hosts that gave no answer.
    pub failed: usize,
}

/// No host is asked: all have been found failing a moment ago, by this process or by earlier ones.
#[derive(Debug, thiserror::Error)]
#[error("no host is asked for now: {hosts} failed a moment ago")]
pub struct AllRest {
    /// The hosts.
    pub hosts: String,
}

struct Reply {
    host: HostId,
    infos: Result<Vec<PathInfo>, Arc<RemoteError>>,
}

/// Far enough away to mean never.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Pool {
    /// Asks all hosts at once about `paths`. A host that rests after a failure is asked only when
    /// all rest, and not right after the failure; when its pause is over, one question at a time
    /// finds out whether it is back. The answer is there when for each path the best host that can
    /// have it has said so, or one has said so and those before it in the order took longer than
    /// the hedge delay (which is granted once: a host that did is not waited for again until it
    /// answers in time), or all have answered. `accept` says which infos count.
    pub async fn ask(
        &self,
        paths: &[StorePath],
        accept: impl Fn(HostId, &PathInfo) -> bool,
    ) -> Answers {
        let mut answers = Answers::default();
        self.load().await;
        let (mut open, mut probes) = self.askable();
        answers.failed = self.slots.len() - open.len();
        let mut replies = {
            let (tx, rx) = mpsc::channel(open.len().max(1));
            let paths: Arc<[StorePath]> = paths.into();
            for slot in &open {
                let (slot, paths, tx) = (slot.clone(), paths.clone(), tx.clone());
                let probe = probes.remove(&slot.id);
                let in_time = Instant::now() + self.limits.hedge;
                // A task of its own: when its answer is no longer waited for, it is still read to
                // the end, so that the connection stays usable.
                tokio::spawn(async move {
                    let infos = slot.query_path_infos(&paths).await;
                    drop(probe);
                    if infos.is_ok() && Instant::now() <= in_time {
                        slot.kept.slow.store(false, Ordering::Relaxed);
                    }
                    let _ = tx
                        .send(Reply {
                            host: slot.id,
                            infos,
                        })
                        .await;
                });
            }
            rx
        };
        let mut hedge = Instant::now() + NEVER;
        let mut hedged = false;
        while !is_settled(&answers, paths, &open, hedged) {
            let reply = tokio::select! {
                reply = replies.recv() => reply,
                () = sleep_until(hedge), if !hedged => {
                    hedged = true;
                    for slot in &open {
                        slot.took_too_long().await;
                    }
                    continue;
                }
            };
            let Some(Reply { host, infos }) = reply else {
                break;
            };
            open.retain(|slot| slot.id != host);
            let Ok(infos) = infos else {
                answers.failed += 1;
                continue;
            };
            for info in infos.into_iter().filter(|info| accept(host, info)) {
                let info = Arc::new(info);
                let holders = answers.holders.entry(info.path.clone()).or_default();
                let at = holders.partition_point(|holder| holder.host < host);
                holders.insert(at, Holder { host, info });
            }
            hedge = hedge.min(Instant::now() + self.limits.hedge);
        }
        answers
    }

    /// Whom to ask: all that do not rest, with the right to probe those that are half-open, or else
    /// all that have not failed just now.
    fn askable(&self) -> (Vec<Arc<Slot>>, HashMap<HostId, Probe>) {
        let mut probes = HashMap::new();
        let is_awake = |slot: &&Arc<Slot>| match slot.standing() {
            Standing::Healthy => true,
            _ => slot.probe().is_some_and(|probe| {
                probes.insert(slot.id, probe);
                true
            }),
        };
        let mut open: Vec<_> = self.slots.iter().filter(is_awake).cloned().collect();
        if open.is_empty() {
            let rested = |slot: &&Arc<Slot>| slot.standing() != Standing::JustFailed;
            open = self.slots.iter().filter(rested).cloned().collect();
        }
        if open.is_empty() {
            self.tell_that_all_rest();
        }
        (open, probes)
    }

    /// Once, and only if nothing else has told the user why there are no answers.
    fn tell_that_all_rest(&self) {
        if self.slots.iter().any(|slot| slot.has_told()) {
            return;
        }
        if !self.slots.is_empty() && !self.told_that_all_rest.swap(true, Ordering::Relaxed) {
            let hosts: Vec<_> = self
                .slots
                .iter()
                .map(|slot| slot.host.to_string())
                .collect();
            let hosts = hosts.join(", ");
            self.notify(&AllRest { hosts });
        }
    }
}

/// Whether no host that is `open` still could, or should be waited for to, change the answer.
fn is_settled(answers: &Answers, paths: &[StorePath], open: &[Arc<Slot>], hedged: bool) -> bool {
    if open.is_empty() {
        return true;
    }
    let first = open.iter().find(|slot| slot.is_waited_for());
    let first = first.map(|slot| slot.id);
    paths.iter().all(|path| match answers.holders.get(path) {
        None => false,
        Some(holders) => hedged || first.is_none_or(|first| holders[0].host < first),
    })
}

impl Pool {
    /// The closure of `roots` as one host tells it.
    ///
    /// # Errors
    /// When the host fails.
    pub async fn query_closure(
        &self,
        host: HostId,
        roots: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, Arc<RemoteError>> {
        self.load().await;
        self.slots[host.0]
            .exchange(&[closure(roots, include_outputs)], |lease| {
                Box::pin(lease.finish_closure())
            })
            .await
    }
}

/// The future of one exchange on a leased connection.
type Exchange<'a, T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

impl Slot {
    async fn query_path_infos(
        self: &Arc<Self>,
        paths: &Arc<[StorePath]>,
    ) -> Result<Vec<PathInfo>, Arc<RemoteError>> {
        let requests: Vec<_> = path_infos(paths).collect();
        self.exchange(&requests, |lease| {
            let paths = paths.clone();
            Box::pin(async move { lease.finish_path_infos(&paths).await })
        })
        .await
    }

    /// An exchange with this host, which reads the replies to `requests`; once more when a used
    /// connection turns out to be dead.
    async fn exchange<T>(
        self: &Arc<Self>,
        requests: &[Request],
        exchange: impl for<'a> Fn(&'a mut Lease) -> Exchange<'a, T>,
    ) -> Result<T, Arc<RemoteError>> {
        loop {
            let (error, reused) = match self.lease_with(requests).await {
                Ok(mut lease) => match exchange(&mut lease).await {
                    Ok(value) => {
                        lease.give_back().await;
                        return Ok(value);
                    }
                    Err(error) => (Arc::new(error), lease.is_reused()),
                },
                Err(error) => (error, false),
            };
            if !reused {
                self.failed(&error).await;
                return Err(error);
            }
            log::debug!("{error}; trying once more");
        }
    }
}
