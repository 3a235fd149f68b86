//! Asking all hosts at once which paths they have.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::health::{Probe, Standing};
use super::host::{EARLY_PROBE_TIMEOUT, HostPool};
use super::{HostId, Pool};
use crate::hint::Hint;
use crate::model::{PathInfo, StorePath};
use crate::remote::{RemoteError, closure, path_infos};

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

/// No host is asked: all failed a moment ago, for this process or for earlier ones.
#[derive(Debug, thiserror::Error)]
#[error("no host is asked for now: {hosts} failed a moment ago (left alone since {})", seconds(.since))]
pub struct AllHostsResting {
    /// The hosts.
    pub hosts: String,
    /// How long ago each of them failed.
    pub since: Vec<Duration>,
}

impl Hint for AllHostsResting {
    fn hint(&self) -> Option<String> {
        Some(
            "each is tried again after 5 s to 5 min; the command that found them failing said why"
                .to_owned(),
        )
    }
}

fn seconds(since: &[Duration]) -> String {
    let since = since.iter().map(|since| format!("{} s", since.as_secs()));
    since.collect::<Vec<_>>().join(", ")
}

/// A question to the hosts.
pub struct Question<'a> {
    /// The paths.
    pub paths: &'a [StorePath],
    /// Hosts that are not asked: their answers are known.
    pub except: &'a [HostId],
    /// Called with each host's answer: the infos of those paths that it has. Also for a host that answers
    /// after the question as a whole was answered.
    pub on_reply: OnReply,
}

/// See [`Question::on_reply`].
pub type OnReply =
    Arc<dyn for<'a> Fn(HostId, &'a [Arc<PathInfo>]) -> OnReplyFuture<'a> + Send + Sync>;

/// What is done with an answer before it counts.
pub type OnReplyFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

struct Reply {
    host: HostId,
    infos: Result<Vec<Arc<PathInfo>>, Arc<RemoteError>>,
}

/// Far enough away to mean never.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Pool {
    /// Asks all hosts at once about `paths`, as [`Pool::ask_each`] does.
    pub async fn ask(
        &self,
        paths: &[StorePath],
        accept: impl Fn(HostId, &PathInfo) -> bool,
    ) -> Answers {
        let question = Question {
            paths,
            except: &[],
            on_reply: Arc::new(|_, _| Box::pin(async {})),
        };
        let mut answers = Answers::default();
        let on_settled = |paths| answers.holders.extend(paths);
        answers.failed = self.ask_each(question, accept, on_settled).await;
        answers.holders.retain(|_, holders| !holders.is_empty());
        answers
    }

    /// Asks hosts at once about paths. Gives how many gave no answer.
    ///
    /// `accept` says which infos count. `on_settled` is called once for each path, with its holders, when
    ///
    /// - the best host that can have it has said so, or
    /// - a host has said so, and those before it in the order took longer than the hedge delay, or
    /// - all have answered.
    ///
    /// The hedge delay is granted once: a host that took longer is not waited for again until it answers in
    /// time. A host that rests after a failure is asked only when all rest, and not within 5 s of its failure.
    /// When its pause is over, one question at a time probes it. Paths that nobody has are asked of resting
    /// hosts too, for at most `EARLY_PROBE_TIMEOUT`: once for each new command, and once for each failure of
    /// a host that had worked before.
    pub async fn ask_each(
        &self,
        question: Question<'_>,
        accept: impl Fn(HostId, &PathInfo) -> bool,
        mut on_settled: impl FnMut(Vec<(StorePath, Vec<Holder>)>),
    ) -> usize {
        self.load().await;
        let (mut open, probes) = self.askable(question.except);
        let mut failed = self
            .hosts
            .len()
            .saturating_sub(open.len() + question.except.len());
        let nobody_is_asked = open.is_empty() && question.except.len() < self.hosts.len();
        let mut replies = self.send(&question, &open, probes);
        let mut holders: HashMap<StorePath, Vec<Holder>> = HashMap::new();
        let mut pending: Vec<&StorePath> = question.paths.iter().collect();
        let mut hedge = Instant::now() + NEVER;
        let mut hedged = false;
        let mut early = None;
        loop {
            let first = open.iter().find(|host_pool| host_pool.may_delay_answers());
            let first = first.map(|host_pool| host_pool.id);
            let mut round = Vec::new();
            let is_last_round = open.is_empty() && early.is_some();
            pending.retain(|path| {
                let done = is_last_round
                    || holders.get(*path).is_some_and(|holders| {
                        hedged || first.is_none_or(|first| holders[0].host < first)
                    });
                if done {
                    round.push(((*path).clone(), holders.remove(*path).unwrap_or_default()));
                }
                !done
            });
            if !round.is_empty() {
                on_settled(round);
            }
            if pending.is_empty() {
                return failed;
            }
            if open.is_empty() {
                let (hosts, probes) = self.early_probes(question.except);
                early = Some(Instant::now() + EARLY_PROBE_TIMEOUT);
                if hosts.is_empty() && nobody_is_asked {
                    self.report_all_resting();
                }
                failed = failed.saturating_sub(hosts.len());
                replies = self.send(&question, &hosts, probes);
                open = hosts;
                continue;
            }
            let reply = tokio::select! {
                biased;
                reply = replies.recv() => reply,
                () = sleep_until(early.unwrap_or(hedge)), if early.is_some() => {
                    failed += open.len();
                    open.clear();
                    continue;
                }
                () = sleep_until(hedge), if !hedged => {
                    hedged = true;
                    for host_pool in &open {
                        host_pool.record_slow().await;
                    }
                    continue;
                }
            };
            let Some(Reply { host, infos }) = reply else {
                // A task that ended without a reply, which none does.
                open.clear();
                continue;
            };
            open.retain(|host_pool| host_pool.id != host);
            let Ok(infos) = infos else {
                failed += 1;
                continue;
            };
            for info in infos.into_iter().filter(|info| accept(host, info)) {
                let holders = holders.entry(info.path.clone()).or_default();
                let at = holders.partition_point(|holder| holder.host < host);
                holders.insert(at, Holder { host, info });
            }
            hedge = hedge.min(Instant::now() + self.limits.hedge);
        }
    }

    /// Asks each host in a task of its own. An answer that is no longer waited for is still read to its end,
    /// so that the connection stays usable.
    fn send(
        &self,
        question: &Question<'_>,
        open: &[Arc<HostPool>],
        mut probes: HashMap<HostId, Probe>,
    ) -> mpsc::Receiver<Reply> {
        let (tx, rx) = mpsc::channel(open.len().max(1));
        let paths: Arc<[StorePath]> = question.paths.into();
        for host_pool in open {
            let (host_pool, paths, tx) = (host_pool.clone(), paths.clone(), tx.clone());
            let on_reply = question.on_reply.clone();
            let probe = probes.remove(&host_pool.id);
            let in_time = Instant::now() + self.limits.hedge;
            tokio::spawn(async move {
                let infos = host_pool.query_path_infos(&paths).await;
                drop(probe);
                if infos.is_ok() && Instant::now() <= in_time {
                    host_pool.health.slow.store(false, Ordering::Relaxed);
                }
                if let Ok(infos) = &infos {
                    on_reply(host_pool.id, infos).await;
                }
                let host = host_pool.id;
                let _ = tx.send(Reply { host, infos }).await;
            });
        }
        rx
    }

    /// What one host knows of `paths`.
    ///
    /// # Errors
    /// When the host fails.
    pub async fn query_path_infos(
        &self,
        host: HostId,
        paths: &[StorePath],
    ) -> Result<Vec<Arc<PathInfo>>, Arc<RemoteError>> {
        self.load().await;
        self.hosts[host.0].query_path_infos(&paths.into()).await
    }

    /// Whether a host is not known to fail.
    #[must_use]
    pub fn is_healthy(&self, host: HostId) -> bool {
        self.hosts[host.0].standing() == Standing::Healthy
    }

    /// Whether answers of hosts behind it in the order wait for this one, for the hedge delay.
    #[must_use]
    pub fn may_delay_answers(&self, host: HostId) -> bool {
        self.hosts[host.0].may_delay_answers()
    }

    /// How long a host may hold up an answer that one behind it in the order has given.
    #[must_use]
    pub fn hedge_delay(&self) -> Duration {
        self.limits.hedge
    }

    /// Whom to ask: all hosts that do not rest, with the right to probe those that are half-open. Where all
    /// rest: all that have not failed just now. Without `except`, whose answers are known.
    pub(super) fn askable(
        &self,
        except: &[HostId],
    ) -> (Vec<Arc<HostPool>>, HashMap<HostId, Probe>) {
        let mut probes = HashMap::new();
        let is_awake = |host_pool: &&Arc<HostPool>| match host_pool.standing() {
            Standing::Healthy => true,
            _ if except.contains(&host_pool.id) => false,
            _ => host_pool.health.probe().is_some_and(|probe| {
                probes.insert(host_pool.id, probe);
                true
            }),
        };
        let mut open: Vec<_> = self.hosts.iter().filter(is_awake).cloned().collect();
        if open.is_empty() {
            let rested = |host_pool: &&Arc<HostPool>| host_pool.standing() != Standing::JustFailed;
            open = self.hosts.iter().filter(rested).cloned().collect();
        }
        open.retain(|host_pool| !except.contains(&host_pool.id));
        (open, probes)
    }

    /// Resting hosts that may be probed early, with the right to do so, and those that are being probed early.
    fn early_probes(&self, except: &[HostId]) -> (Vec<Arc<HostPool>>, HashMap<HostId, Probe>) {
        let mut probes = HashMap::new();
        let is_probed = |host_pool: &&Arc<HostPool>| {
            let probe = host_pool.early_probe();
            let is_probed = probe.is_some() || host_pool.may_join_probe();
            probes.extend(probe.map(|probe| (host_pool.id, probe)));
            is_probed
        };
        let hosts = self
            .hosts
            .iter()
            .filter(|host_pool| !except.contains(&host_pool.id));
        let hosts = hosts.filter(is_probed).cloned().collect();
        (hosts, probes)
    }

    /// Tells the user once, and only if no failure was reported that explains why there are no answers.
    fn report_all_resting(&self) {
        if self
            .hosts
            .iter()
            .any(|host_pool| host_pool.is_failure_reported())
        {
            return;
        }
        if !self.hosts.is_empty() && !self.all_resting_reported.swap(true, Ordering::Relaxed) {
            let hosts: Vec<_> = self
                .hosts
                .iter()
                .map(|host_pool| host_pool.host.to_string())
                .collect();
            let hosts = hosts.join(", ");
            let since = self.hosts.iter().map(|host_pool| host_pool.since_failure());
            let since = since.collect();
            self.notify(&AllHostsResting { hosts, since });
        }
    }
}

impl Pool {
    /// The closure of `roots` as one host knows it and, in the same round trip, its infos of `paths`.
    ///
    /// # Errors
    /// When the host fails.
    pub async fn query_closure_with_infos(
        &self,
        host: HostId,
        roots: &[StorePath],
        paths: &[StorePath],
    ) -> Result<(Vec<StorePath>, Vec<Arc<PathInfo>>), Arc<RemoteError>> {
        self.load().await;
        let (asked, with): (Arc<[StorePath]>, Arc<[StorePath]>) = (roots.into(), paths.into());
        let requests: Vec<_> = std::iter::once(closure(roots, false))
            .chain(path_infos(paths))
            .collect();
        let exchange = self.hosts[host.0].exchange(&requests, |lease| {
            let (asked, with) = (asked.clone(), with.clone());
            Box::pin(async move {
                let closure = lease.finish_closure(&asked).await?;
                Ok((closure, lease.finish_path_infos(&with).await?))
            })
        });
        let (closure, infos) = exchange.await?;
        Ok((closure, infos.into_iter().map(Arc::new).collect()))
    }

    /// The closure of `roots` as one host knows it.
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
        let asked: Arc<[StorePath]> = roots.into();
        self.hosts[host.0]
            .exchange(&[closure(roots, include_outputs)], |lease| {
                let asked = asked.clone();
                Box::pin(async move { lease.finish_closure(&asked).await })
            })
            .await
    }
}
