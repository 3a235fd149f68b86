//! Questions that the memory cannot answer. Identical ones are asked once; those that come
//! together go out together. Each path is answered as soon as it can be, whatever becomes of the
//! others in the same question.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout_at;

use super::counts::Counters;
use super::known::{Known, Says};
use super::prefetch::Outlook;
use super::{Found, Inner};
use crate::model::{PathInfo, StorePath};
use crate::pool::{Holder, HostId, Question};
use crate::watch;

/// The questions that are being answered.
#[derive(Default)]
pub(super) struct Questions {
    // Held for a few instructions, never over an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who finds out about a path.
    by_path: HashMap<StorePath, Arc<Batch>>,
    /// What has not gone out yet: more may join.
    gathering: Option<Arc<Batch>>,
}

/// Paths that are asked for together.
struct Batch {
    paths: Mutex<Vec<StorePath>>,
    answers: watch::Sender<HashMap<StorePath, Option<Found>>>,
}

impl Questions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What the memory says of a path: `None` when somebody has to be asked, `Some(None)` when
    /// nobody has it.
    pub(super) fn remembered(&self, path: &StorePath) -> Option<Option<Found>> {
        let known = self.memory.get(path)?;
        match self.outlook(path, &known) {
            Outlook::Ready => self.judge(&known),
            Outlook::Wait(_) => None,
        }
    }

    fn judge(&self, known: &Known) -> Option<Option<Found>> {
        let mut others = self.pool.hosts().filter(|host| known.of(*host).is_none());
        let answered = if known.holders().next().is_none() {
            others.next().is_none()
        } else {
            // When those who have it are failing, those who may have it are worth a question.
            known.holders().any(|(host, _)| self.pool.is_well(host))
                || !others.any(|host| self.pool.is_well(host))
        };
        answered.then(|| known.tell())
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
        let mut state = self.questions.lock();
        for path in paths {
            let batch = match state.by_path.get(&path) {
                Some(batch) => batch.clone(),
                None => {
                    let batch = state.gathering.get_or_insert_with(|| self.start()).clone();
                    lock(&batch.paths).push(path.clone());
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

    /// Asks the hosts that are not known to lack them.
    async fn ask_hosts(
        self: &Arc<Self>,
        paths: Vec<StorePath>,
        but: Vec<HostId>,
        batch: &OpenBatch,
    ) {
        let (inner, asked) = (self.clone(), paths.clone());
        let heard = move |host: HostId, infos: &[Arc<PathInfo>]| {
            inner.memory.heard(host, &asked, infos);
            inner.prefetch(host, infos);
        };
        let question = Question {
            paths: &paths,
            but: &but,
            heard: Arc::new(heard),
        };
        // It was judged when it was heard.
        let accept = |host, info: &PathInfo| match self.memory.get(&info.path) {
            Some(known) if known.of(host).is_some() => known
                .of(host)
                .is_some_and(|answer| matches!(answer.says, Says::Has(_))),
            _ => self.memory.accepts(host, info),
        };
        let settled = |paths: Vec<(StorePath, Vec<Holder>)>| {
            let answers = paths.into_iter().map(|(path, holders)| {
                let mut known = self.memory.get(&path).unwrap_or_default();
                // The memory may have dropped what was heard.
                known.add_holders(holders);
                (path, known.tell())
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
            let mut state = self.inner.questions.lock();
            if state
                .gathering
                .as_ref()
                .is_some_and(|b| Arc::ptr_eq(b, &self.batch))
            {
                state.gathering = None;
            }
            let mut paths = lock(&self.batch.paths);
            std::mem::take(&mut *paths)
        };
        self.inner.memory.look_up(&pending, true).await;
        let this = Arc::new(self);
        let mut asking = JoinSet::new();
        let inner = &this.inner;
        let mut answered_by = &inner.counters.disk;
        loop {
            // Before looking, so that nothing is missed.
            let mut changed = inner.prefetches.changed();
            let mut answered = Vec::new();
            let mut open: BTreeMap<Vec<HostId>, Vec<StorePath>> = BTreeMap::new();
            let mut deadline = None;
            pending.retain(|path| {
                let known = inner.memory.get(path).unwrap_or_default();
                match inner.outlook(path, &known) {
                    Outlook::Wait(until) => {
                        deadline = Some(deadline.map_or(until, |at| until.min(at)));
                        return true;
                    }
                    Outlook::Ready => match inner.judge(&known) {
                        Some(found) => answered.push((path.clone(), found)),
                        None => open
                            .entry(known.hosts().collect())
                            .or_default()
                            .push(path.clone()),
                    },
                }
                false
            });
            Counters::add(answered_by, answered.len());
            answered_by = &inner.counters.ahead;
            if !answered.is_empty() {
                this.settle(answered);
            }
            for (but, paths) in open {
                Counters::add(&inner.counters.hosts, paths.len());
                let this = this.clone();
                asking.spawn(async move {
                    let inner = this.inner.clone();
                    inner.ask_hosts(paths, but, &this).await;
                });
            }
            let Some(deadline) = deadline else {
                break;
            };
            let _ = timeout_at(deadline, changed.changed()).await;
        }
        while asking.join_next().await.is_some() {}
    }

    fn settle(&self, answers: Vec<(StorePath, Option<Found>)>) {
        // Who asks from now on may have to get a newer answer than this.
        let mut state = self.inner.questions.lock();
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
        let mut state = self.inner.questions.lock();
        state
            .by_path
            .retain(|_, batch| !Arc::ptr_eq(batch, &self.batch));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
