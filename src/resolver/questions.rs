//! Questions in flight: those that the memory tier cannot answer.
//!
//! Identical ones are asked once, and those that come together go out as one batch. Each path is answered as
//! soon as it can be, whatever becomes of the others in the batch.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use super::cache::{AnswerKind, HostAnswer, PathRecord};
use super::counts::Counters;
use super::{Found, ResolverCore};
use crate::cache::disk::unix_seconds;
use crate::model::{PathInfo, StorePath};
use crate::pool::{Holder, HostId, OnReply, Question};
use crate::watch;

/// The questions that are being answered.
#[derive(Default)]
pub(super) struct InFlightQuestions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The batch that a path is in.
    by_path: HashMap<StorePath, Arc<Batch>>,
    /// The batch that has not gone out yet: more paths may join.
    gathering: Option<Arc<Batch>>,
}

/// What a question about a path waits for.
struct Status {
    next: NextStep,
    /// Hosts that have held up the answer for too long.
    late: BTreeSet<HostId>,
}

enum NextStep {
    /// Requests in flight may answer it. To be looked at again at this time, or when something has changed.
    Wait(Instant),
    /// It is answered.
    Answer(Option<Found>),
    /// The hosts have to be asked whether their answers still hold.
    Check,
    /// To be asked of the hosts, except these.
    Ask(Vec<HostId>),
}

/// Paths that are asked for together.
struct Batch {
    paths: Mutex<Vec<StorePath>>,
    answers: watch::Sender<HashMap<StorePath, Option<Found>>>,
}

impl ResolverCore {
    /// The answer of the memory tier: `None` when hosts have to be asked, `Some(None)` when no host has the path.
    pub(super) fn remembered(&self, path: &StorePath) -> Option<Option<Found>> {
        let known = self.cache.get(path)?;
        let mut due = known.answers().iter().filter(|answer| self.is_due(answer));
        if due.any(|answer| self.pool.is_well(answer.host)) {
            return None;
        }
        match self.status(path, &known, true, &[]).next {
            // Hosts that cannot be asked may have it.
            NextStep::Answer(None) if known.answers().iter().any(|answer| self.is_due(answer)) => {
                None
            }
            NextStep::Answer(found) => Some(found),
            NextStep::Wait(_) | NextStep::Check | NextStep::Ask(_) => None,
        }
    }

    /// What to do next about a question. With `checked`, remembered answers have been checked for it, as far as
    /// hosts may be asked. `asked` are the hosts that were asked about the path.
    fn status(
        &self,
        path: &StorePath,
        known: &PathRecord,
        checked: bool,
        asked: &[HostId],
    ) -> Status {
        let unsettled = self.checks.under_way(path);
        let promised =
            known.filtered(|answer| self.is_promise(answer) && !unsettled.contains(&answer.host));
        let holder = promised.holders().next().map(|(host, _)| host);
        let except: Vec<HostId> = known.hosts().chain(asked.iter().copied()).collect();
        // Without a holder in reach, hosts that may have it are worth a question.
        let others = holder.is_none() && self.pool.hosts().any(|host| !except.contains(&host));
        let pending = self.pending_checks(path, holder, others);
        let ahead = self.wait_for_prefetch(path, known, holder);
        let due = |answer: &HostAnswer| self.is_due(answer) && !unsettled.contains(&answer.host);
        // A prefetch in flight tells as much as a check.
        let check = !checked && ahead.is_none() && known.answers().iter().any(due);
        let next = match ahead.into_iter().chain(pending.until).min() {
            _ if check => NextStep::Check,
            Some(until) => NextStep::Wait(until),
            None if others => NextStep::Ask(except),
            None => NextStep::Answer(self.cache.best_match(&promised)),
        };
        let late = pending.late;
        Status { next, late }
    }

    /// Asks about paths, each of them once.
    pub(super) async fn ask(self: &Arc<Self>, paths: Vec<StorePath>) -> HashMap<StorePath, Found> {
        let mut found = HashMap::new();
        // Only the batch's task keeps the sender, so that its end is noticed.
        let batches = self.join(paths).into_iter();
        let batches: Vec<_> = batches
            .map(|(batch, paths)| (batch.answers.subscribe(), paths))
            .collect();
        for (mut answers, paths) in batches {
            let has_all = |answers: &HashMap<StorePath, Option<Found>>| {
                paths.iter().all(|path| answers.contains_key(path))
            };
            let mine = |answers: &HashMap<StorePath, Option<Found>>| {
                let mine = paths.iter();
                let mine = mine.filter_map(|path| Some((path.clone(), answers[path].clone()?)));
                mine.collect::<Vec<_>>()
            };
            // A batch that ended without an answer found nothing.
            found.extend(answers.wait_for(has_all, mine).await.unwrap_or_default());
        }
        found
    }

    /// The batches that answer these paths; a new one for paths that are in none.
    fn join(self: &Arc<Self>, paths: Vec<StorePath>) -> Vec<(Arc<Batch>, Vec<StorePath>)> {
        let mut batches: Vec<(Arc<Batch>, Vec<StorePath>)> = Vec::new();
        let mut state = self.questions.state.lock();
        for path in paths {
            let batch = match state.by_path.get(&path) {
                Some(batch) => batch.clone(),
                None => {
                    let batch = state.gathering.get_or_insert_with(|| self.start()).clone();
                    batch.paths.lock().push(path.clone());
                    state.by_path.insert(path.clone(), batch.clone());
                    batch
                }
            };
            match batches
                .iter_mut()
                .find(|(other, _)| Arc::ptr_eq(other, &batch))
            {
                Some((_, paths)) => paths.push(path),
                None => batches.push((batch, vec![path])),
            }
        }
        batches
    }

    /// A new batch, with a task of its own: the caller that asked first may go away.
    fn start(self: &Arc<Self>) -> Arc<Batch> {
        let batch = Arc::new(Batch {
            paths: Mutex::default(),
            answers: watch::Sender::new(HashMap::new()),
        });
        let open = BatchTask {
            core: self.clone(),
            batch: batch.clone(),
        };
        tokio::spawn(open.run());
        batch
    }

    /// What is done with a host's reply about these paths.
    fn on_reply(self: &Arc<Self>, asked: Arc<[StorePath]>) -> OnReply {
        let core = self.clone();
        Arc::new(move |host, infos| {
            let (core, asked) = (core.clone(), asked.clone());
            Box::pin(async move {
                core.cache.record_answers(host, &asked, infos);
                core.prefetch(host, infos);
                core.verify_ahead(infos.iter().map(|info| &info.path)).await;
            })
        })
    }

    /// Asks the hosts, without those of `except`.
    async fn ask_hosts(
        self: &Arc<Self>,
        paths: Vec<StorePath>,
        except: Vec<HostId>,
        batch: &BatchTask,
    ) {
        let question = Question {
            paths: &paths,
            except: &except,
            on_reply: self.on_reply(paths.as_slice().into()),
        };
        // `on_reply` has checked it.
        let accept = |host, info: &PathInfo| match self.cache.get(&info.path) {
            Some(known) if known.answer_of(host).is_some() => known
                .answer_of(host)
                .is_some_and(|answer| matches!(answer.kind, AnswerKind::Has(_))),
            _ => self.cache.is_accepted(host, info),
        };
        let on_settled = |paths: Vec<(StorePath, Vec<Holder>)>| {
            let answers = paths.into_iter().filter_map(|(path, holders)| {
                let known = self.cache.get(&path).unwrap_or_default();
                let mut known = known.filtered(|answer| self.is_promise(answer));
                // The cache may have evicted the answers already.
                known.add_holders(holders, unix_seconds());
                Some((path, Some(self.cache.best_match(&known)?)))
            });
            batch.settle(answers.collect());
        };
        self.pool.ask_each(question, accept, on_settled).await;
    }
}

/// The task of a batch. When it is dropped, paths without an answer stay unanswered.
struct BatchTask {
    core: Arc<ResolverCore>,
    batch: Arc<Batch>,
}

impl BatchTask {
    async fn run(self) {
        // Lets questions join that come at the same moment.
        yield_now().await;
        let mut pending = {
            let mut state = self.core.questions.state.lock();
            if state
                .gathering
                .as_ref()
                .is_some_and(|b| Arc::ptr_eq(b, &self.batch))
            {
                state.gathering = None;
            }
            let mut paths = self.batch.paths.lock();
            std::mem::take(&mut *paths)
        };
        let this = Arc::new(self);
        let core = &this.core;
        core.pool.load().await;
        let knew = |path: &&StorePath| {
            let known = core.cache.get_unverified(path);
            known.is_some_and(|known| !known.answers().is_empty())
        };
        let in_memory: HashSet<_> = pending.iter().filter(knew).cloned().collect();
        core.cache.look_up(&pending, true).await;
        let in_cache: HashSet<_> = pending.iter().filter(knew).cloned().collect();
        let mut checked: HashSet<StorePath> = HashSet::new();
        let mut asked: HashMap<StorePath, Vec<HostId>> = HashMap::new();
        let mut asking = JoinSet::new();
        loop {
            // Subscribed before the state is read, so that no change is missed.
            let mut changed = core.prefetches.changed();
            core.verify_ahead(pending.iter()).await;
            let mut answered = Vec::new();
            let mut open: BTreeMap<Vec<HostId>, Vec<StorePath>> = BTreeMap::new();
            let mut deadline: Option<Instant> = None;
            let mut late = BTreeSet::new();
            let mut unchecked = Vec::new();
            pending.retain(|path| {
                let known = core.cache.get(path).unwrap_or_default();
                let asked = asked.get(path).map_or(&[][..], Vec::as_slice);
                let status = core.status(path, &known, checked.contains(path), asked);
                late.extend(status.late);
                match status.next {
                    NextStep::Wait(until) => {
                        deadline = Some(deadline.map_or(until, |at| until.min(at)));
                        return true;
                    }
                    NextStep::Check => {
                        unchecked.push(path.clone());
                        return true;
                    }
                    NextStep::Answer(found) => answered.push((path.clone(), found)),
                    NextStep::Ask(except) => open.entry(except).or_default().push(path.clone()),
                }
                false
            });
            for (path, _) in &answered {
                let counter = match () {
                    () if asked.contains_key(path) => continue,
                    () if in_memory.contains(path) => &core.counters.memory,
                    () if in_cache.contains(path) => &core.counters.disk,
                    () => &core.counters.ahead,
                };
                Counters::add(counter, 1);
            }
            if !answered.is_empty() {
                this.settle(answered);
            }
            for (except, paths) in open {
                let others = || core.pool.hosts().filter(|host| !except.contains(host));
                for path in &paths {
                    let hosts = asked.entry(path.clone()).or_insert_with(|| {
                        Counters::add(&core.counters.hosts, 1);
                        Vec::new()
                    });
                    hosts.extend(others());
                }
                let this = this.clone();
                asking.spawn(async move {
                    let core = this.core.clone();
                    core.ask_hosts(paths.clone(), except, &this).await;
                    paths
                });
            }
            for host in late {
                core.pool.took_too_long(host).await;
            }
            if !unchecked.is_empty() {
                core.start_checks(&unchecked).await;
                checked.extend(unchecked);
                continue;
            }
            if pending.is_empty() && asking.is_empty() {
                break;
            }
            tokio::select! {
                // What it did not find may be known from other replies by now.
                joined = asking.join_next(), if !asking.is_empty() => {
                    if let Some(Ok(paths)) = joined {
                        pending.extend(this.open_of(paths));
                    }
                }
                _ = changed.changed() => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
        }
    }

    /// Those of `paths` that have no answer yet.
    fn open_of(&self, mut paths: Vec<StorePath>) -> Vec<StorePath> {
        self.batch.answers.read(|answers| {
            paths.retain(|path| !answers.contains_key(path));
        });
        paths
    }

    fn settle(&self, answers: Vec<(StorePath, Option<Found>)>) {
        // A question from now on may need a newer answer than this one.
        let mut state = self.core.questions.state.lock();
        for (path, _) in &answers {
            if state
                .by_path
                .get(path)
                .is_some_and(|b| Arc::ptr_eq(b, &self.batch))
            {
                state.by_path.remove(path);
            }
        }
        drop(state);
        self.batch.answers.send_modify(|all| all.extend(answers));
    }
}

impl Drop for BatchTask {
    fn drop(&mut self) {
        let mut state = self.core.questions.state.lock();
        state
            .by_path
            .retain(|_, batch| !Arc::ptr_eq(batch, &self.batch));
    }
}
