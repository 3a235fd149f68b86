//! Questions that the memory cannot answer. Identical ones are asked once; those that come
//! together go out together. Each path is answered as soon as it can be, whatever becomes of the
//! others in the same question.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use super::counts::Counters;
use super::known::{Answer, Known, Says};
use super::prefetch::Outlook;
use super::{Found, Inner};
use crate::cache::disk::unix_seconds;
use crate::model::{PathInfo, StorePath};
use crate::pool::{Heard, Holder, HostId, Question};
use crate::watch;

/// The questions that are being answered.
#[derive(Default)]
pub(super) struct Questions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who finds out about a path.
    by_path: HashMap<StorePath, Arc<Batch>>,
    /// What has not gone out yet: more may join.
    gathering: Option<Arc<Batch>>,
}

/// How it stands with a question about a path.
struct Stand {
    next: Next,
    /// Hosts that have held up the answer for too long.
    late: BTreeSet<HostId>,
}

enum Next {
    /// It may be answered by what is under way; to be looked at again then, or when something has
    /// changed.
    Wait(Instant),
    /// It is answered.
    Answer(Option<Found>),
    /// The hosts have to be asked whether what they said is still so.
    Check,
    /// To be asked of the hosts, but not of these.
    Ask(Vec<HostId>),
}

/// Paths that are asked for together.
struct Batch {
    paths: Mutex<Vec<StorePath>>,
    answers: watch::Sender<HashMap<StorePath, Option<Found>>>,
}

impl Questions {}

impl Inner {
    /// What the memory says of a path: `None` when somebody has to be asked, `Some(None)` when
    /// nobody has it.
    pub(super) fn remembered(&self, path: &StorePath) -> Option<Option<Found>> {
        let known = self.memory.get(path)?;
        let mut due = known.answers().iter().filter(|answer| self.is_due(answer));
        if due.any(|answer| self.pool.is_well(answer.host)) {
            return None;
        }
        match self.stand(path, &known, true, &[]).next {
            // That hosts which cannot be asked do not have it is not known.
            Next::Answer(None) if known.answers().iter().any(|answer| self.is_due(answer)) => None,
            Next::Answer(found) => Some(found),
            Next::Wait(_) | Next::Check | Next::Ask(_) => None,
        }
    }

    /// What is to be done about a question. With `checked`, what is remembered has been checked for it as
    /// far as hosts may be asked; `asked` hosts have been asked for it.
    fn stand(&self, path: &StorePath, known: &Known, checked: bool, asked: &[HostId]) -> Stand {
        let unsettled = self.checks.under_way(path);
        let promised =
            known.only(|answer| self.is_promise(answer) && !unsettled.contains(&answer.host));
        let holder = promised.holders().next().map(|(host, _)| host);
        let but: Vec<HostId> = known.hosts().chain(asked.iter().copied()).collect();
        // When those who have it are failing, those who may have it are worth a question.
        let others = holder.is_none() && self.pool.hosts().any(|host| !but.contains(&host));
        let pending = self.pending_checks(path, holder, others);
        let ahead = match self.outlook(path, known, holder) {
            Outlook::Wait(until) => Some(until),
            Outlook::Ready => None,
        };
        let due = |answer: &Answer| self.is_due(answer) && !unsettled.contains(&answer.host);
        // What is on its way ahead of the question tells as much as a check.
        let check = !checked && ahead.is_none() && known.answers().iter().any(due);
        let next = match ahead.into_iter().chain(pending.until).min() {
            _ if check => Next::Check,
            Some(until) => Next::Wait(until),
            None if others => Next::Ask(but),
            None => Next::Answer(self.memory.tell(&promised)),
        };
        let late = pending.late;
        Stand { next, late }
    }

    /// Finds out about paths, each of them once.
    pub(super) async fn ask(self: &Arc<Self>, paths: Vec<StorePath>) -> HashMap<StorePath, Found> {
        let mut found = HashMap::new();
        // Only the task that finds out keeps the sender, so that its end is noticed.
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
            // One that ended without an answer found nothing.
            found.extend(answers.wait_for(has_all, mine).await.unwrap_or_default());
        }
        found
    }

    /// The batches that answer these paths; a new one for those that nobody is at.
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

    /// A new batch, with a task of its own: whoever asked first may lose interest.
    fn start(self: &Arc<Self>) -> Arc<Batch> {
        let batch = Arc::new(Batch {
            paths: Mutex::default(),
            answers: watch::Sender::new(HashMap::new()),
        });
        let open = OpenBatch {
            inner: self.clone(),
            batch: batch.clone(),
        };
        tokio::spawn(open.run());
        batch
    }

    /// What is done with an answer about these paths.
    fn hears(self: &Arc<Self>, asked: Arc<[StorePath]>) -> Heard {
        let inner = self.clone();
        Arc::new(move |host, infos| {
            let (inner, asked) = (inner.clone(), asked.clone());
            Box::pin(async move {
                inner.memory.heard(host, &asked, infos);
                inner.prefetch(host, infos);
                inner
                    .verify_ahead(infos.iter().map(|info| &info.path))
                    .await;
            })
        })
    }

    /// Asks the hosts that are not known to lack them.
    async fn ask_hosts(
        self: &Arc<Self>,
        paths: Vec<StorePath>,
        but: Vec<HostId>,
        batch: &OpenBatch,
    ) {
        let question = Question {
            paths: &paths,
            but: &but,
            heard: self.hears(paths.as_slice().into()),
        };
        // It was judged when it was heard.
        let accept = |host, info: &PathInfo| match self.memory.get(&info.path) {
            Some(known) if known.of(host).is_some() => known
                .of(host)
                .is_some_and(|answer| matches!(answer.says, Says::Has(_))),
            _ => self.memory.accepts(host, info),
        };
        let settled = |paths: Vec<(StorePath, Vec<Holder>)>| {
            let answers = paths.into_iter().filter_map(|(path, holders)| {
                let known = self.memory.get(&path).unwrap_or_default();
                let mut known = known.only(|answer| self.is_promise(answer));
                // The memory may have dropped what was heard.
                known.add_holders(holders, unix_seconds());
                Some((path, Some(self.memory.tell(&known)?)))
            });
            batch.settle(answers.collect());
        };
        self.pool.ask_each(question, accept, settled).await;
    }
}

/// A batch whose paths nobody else asks for. When it is dropped, what is left of it has no answer.
struct OpenBatch {
    inner: Arc<Inner>,
    batch: Arc<Batch>,
}

impl OpenBatch {
    async fn run(self) {
        // Questions that are on their way at this moment shall be able to join.
        yield_now().await;
        let mut pending = {
            let mut state = self.inner.questions.state.lock();
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
        let inner = &this.inner;
        inner.pool.load().await;
        let knew = |path: &&StorePath| {
            let known = inner.memory.untried(path);
            known.is_some_and(|known| !known.answers().is_empty())
        };
        let in_memory: HashSet<_> = pending.iter().filter(knew).cloned().collect();
        inner.memory.look_up(&pending, true).await;
        let in_cache: HashSet<_> = pending.iter().filter(knew).cloned().collect();
        let mut checked: HashSet<StorePath> = HashSet::new();
        let mut asked: HashMap<StorePath, Vec<HostId>> = HashMap::new();
        let mut asking = JoinSet::new();
        loop {
            // Before looking, so that nothing is missed.
            let mut changed = inner.prefetches.changed();
            inner.verify_ahead(pending.iter()).await;
            let mut answered = Vec::new();
            let mut open: BTreeMap<Vec<HostId>, Vec<StorePath>> = BTreeMap::new();
            let mut deadline: Option<Instant> = None;
            let mut late = BTreeSet::new();
            let mut unchecked = Vec::new();
            pending.retain(|path| {
                let known = inner.memory.get(path).unwrap_or_default();
                let asked = asked.get(path).map_or(&[][..], Vec::as_slice);
                let stand = inner.stand(path, &known, checked.contains(path), asked);
                late.extend(stand.late);
                match stand.next {
                    Next::Wait(until) => {
                        deadline = Some(deadline.map_or(until, |at| until.min(at)));
                        return true;
                    }
                    Next::Check => {
                        unchecked.push(path.clone());
                        return true;
                    }
                    Next::Answer(found) => answered.push((path.clone(), found)),
                    Next::Ask(but) => open.entry(but).or_default().push(path.clone()),
                }
                false
            });
            for (path, _) in &answered {
                let counter = match () {
                    () if asked.contains_key(path) => continue,
                    () if in_memory.contains(path) => &inner.counters.memory,
                    () if in_cache.contains(path) => &inner.counters.disk,
                    () => &inner.counters.ahead,
                };
                Counters::add(counter, 1);
            }
            if !answered.is_empty() {
                this.settle(answered);
            }
            for (but, paths) in open {
                let others = || inner.pool.hosts().filter(|host| !but.contains(host));
                for path in &paths {
                    let hosts = asked.entry(path.clone()).or_insert_with(|| {
                        Counters::add(&inner.counters.hosts, 1);
                        Vec::new()
                    });
                    hosts.extend(others());
                }
                let this = this.clone();
                asking.spawn(async move {
                    let inner = this.inner.clone();
                    inner.ask_hosts(paths.clone(), but, &this).await;
                    paths
                });
            }
            for host in late {
                inner.pool.took_too_long(host).await;
            }
            if !unchecked.is_empty() {
                inner.start_checks(&unchecked).await;
                checked.extend(unchecked);
                continue;
            }
            if pending.is_empty() && asking.is_empty() {
                break;
            }
            tokio::select! {
                // What it did not find may be known by what others have heard meanwhile.
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
        // Who asks from now on may have to get a newer answer than this.
        let mut state = self.inner.questions.state.lock();
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

impl Drop for OpenBatch {
    fn drop(&mut self) {
        let mut state = self.inner.questions.state.lock();
        state
            .by_path
            .retain(|_, batch| !Arc::ptr_eq(batch, &self.batch));
    }
}
