//! Paths of which only the hash parts are known, as a binary cache over HTTP is asked for them.
//!
//! ```text
//! find_by_hash -> names of earlier replies -> names of this machine -> hosts: one request each for what is asked meanwhile
//! ```
//!
//! A name that was found proves nothing: `find` asks hosts whether they have such a path, as for any other question.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout};

use super::counts::Counters;
use super::gather::{Batch, Gather};
use super::{Found, Resolver, ResolverCore};
use crate::model::{HashPart, StorePath};
use crate::pool::NAMES_AT_ONCE;

/// How long this machine's own store may hold up an answer, and for how long it is not asked again after it has.
const LOCAL_TIMEOUT: Duration = Duration::from_millis(300);
/// See [`LOCAL_TIMEOUT`].
const LOCAL_PAUSE: Duration = Duration::from_secs(60);

/// How many questions for names may be on their way to each host. What is asked meanwhile goes out together.
const NAMES_ON_THEIR_WAY: usize = 2;

/// The same for questions about paths of known names; and how long one holds up others at most.
const PATHS_ON_THEIR_WAY: usize = 4;
/// See [`PATHS_ON_THEIR_WAY`].
const HOLD_UP_TIMEOUT: Duration = Duration::from_millis(500);

/// How many paths are asked about at a time.
const PATHS_AT_ONCE: usize = 1000;

/// Names of paths that this machine knows.
pub trait NameSource: Send + Sync {
    /// Paths that have this hash part, there or not. Blocks.
    fn names(&self, hash: HashPart) -> Vec<StorePath>;
}

/// How names are found, once that is wanted.
#[derive(Default)]
pub(super) struct Names(OnceLock<NameSearch>);

struct NameSearch {
    store_dir: String,
    local: Option<Arc<dyn NameSource>>,
    local_rests_until: Mutex<Option<Instant>>,
    /// Questions for names, with the paths that hosts have named.
    names: Gather<HashPart, Vec<StorePath>>,
    /// Questions about paths.
    paths: Gather<StorePath, Option<Found>>,
}

impl Resolver {
    /// From now on, paths can be found by their hash parts: what hosts name is remembered. Their store directory is
    /// `store_dir`; `local` knows names, too.
    pub fn enable_find_by_hash(&self, store_dir: &str, local: Option<Arc<dyn NameSource>>) {
        self.core.cache.names.switch_on();
        let search = || NameSearch {
            store_dir: store_dir.to_owned(),
            local,
            local_rests_until: Mutex::default(),
            names: Gather::new(NAMES_ON_THEIR_WAY, NAMES_AT_ONCE),
            paths: Gather::new(PATHS_ON_THEIR_WAY, PATHS_AT_ONCE),
        };
        self.core.names.0.get_or_init(search);
    }

    /// As [`Resolver::find`] for the path with this hash part, whatever its name is. Finds nothing before
    /// [`Resolver::enable_find_by_hash`].
    ///
    /// Accounts that run `nix-store --serve` and nothing else cannot be asked for names: their paths are found when their names
    /// are known from references of other paths, or to this machine.
    pub async fn find_by_hash(&self, hash: HashPart) -> Option<Found> {
        let search = self.core.names.0.get()?;
        let mut tried = Vec::new();
        if let Some(named) = self.core.cache.names.get(hash) {
            if let Some(found) = self.find_together(search, &named).await {
                return Some(found);
            }
            tried.push(named);
        }
        let local = search.local_names(hash).await;
        // A hash part belongs to one name, and this machine's store knows it: hosts would name the same.
        if let Some(named) = local.first() {
            return match tried.contains(named) {
                true => None,
                false => self.find_together(search, named).await,
            };
        }
        let core = self.core.clone();
        let mut answers = search.names.join(hash, |batch| {
            tokio::spawn(core.run_names(batch));
        });
        let mut seen = 0;
        loop {
            let has_more = |answers: &Named| answers.get(&hash).is_some_and(|all| all.len() > seen);
            let mine = |answers: &Named| answers.get(&hash).cloned().unwrap_or_default();
            // When all hosts have answered, nobody has it.
            let named = answers.wait_for(has_more, mine).await.ok()?;
            seen = named.len();
            for path in named {
                if !tried.contains(&path) {
                    if let Some(found) = self.find_together(search, &path).await {
                        return Some(found);
                    }
                    tried.push(path);
                }
            }
        }
    }

    /// Finds one path, together with others that are asked for at that time.
    async fn find_together(&self, search: &NameSearch, path: &StorePath) -> Option<Found> {
        self.core.verify_ahead(std::iter::once(path)).await;
        if let Some(answer) = self.core.remembered(path) {
            Counters::add(&self.core.counters.memory, 1);
            return answer;
        }
        let core = self.core.clone();
        let mut answers = search.paths.join(path.clone(), |batch| {
            tokio::spawn(core.run_paths(batch));
        });
        let has = |answers: &FoundPaths| answers.contains_key(path);
        let mine = |answers: &FoundPaths| answers.get(path).cloned().flatten();
        answers.wait_for(has, mine).await.ok().flatten()
    }
}

type Named = HashMap<HashPart, Vec<StorePath>>;
type FoundPaths = HashMap<StorePath, Option<Found>>;

impl NameSearch {
    async fn local_names(&self, hash: HashPart) -> Vec<StorePath> {
        let rests = *self.local_rests_until.lock();
        let Some(local) = self.local.clone() else {
            return Vec::new();
        };
        if rests.is_some_and(|until| Instant::now() < until) {
            return Vec::new();
        }
        let job = spawn_blocking(move || local.names(hash));
        match timeout(LOCAL_TIMEOUT, job).await {
            Ok(names) => names.unwrap_or_default(),
            Err(_) => {
                log::debug!("the store of this machine takes too long; going on without");
                *self.local_rests_until.lock() = Some(Instant::now() + LOCAL_PAUSE);
                Vec::new()
            }
        }
    }
}

impl ResolverCore {
    /// Asks all hosts for names.
    async fn run_names(self: Arc<Self>, batch: Arc<Batch<HashPart, Vec<StorePath>>>) {
        let Some(search) = self.names.0.get() else {
            return;
        };
        let (hashes, _permit) = search.names.close(&batch).await;
        log::debug!("asks hosts for the names of {} paths", hashes.len());
        let hashes: Arc<[HashPart]> = hashes.into();
        let mut asking = JoinSet::new();
        for host in self.pool.hosts() {
            let (core, hashes) = (self.clone(), hashes.clone());
            asking.spawn(async move {
                let dir = core.names.0.get().map(|search| search.store_dir.as_str());
                let names = core.pool.names(host, dir.unwrap_or_default(), &hashes);
                names.await.map_err(|error| (host, error))
            });
        }
        while let Some(named) = asking.join_next().await {
            match named {
                Ok(Ok(names)) => batch.answer(|answers| add(answers, names.unwrap_or_default())),
                Ok(Err((host, error))) => self.pool.record_failure(host, &error).await,
                // The panic hook has reported it.
                Err(_) => {}
            }
        }
    }

    /// Asks about paths, each of which is answered as soon as it can be.
    async fn run_paths(self: Arc<Self>, batch: Arc<Batch<StorePath, Option<Found>>>) {
        let Some(search) = self.names.0.get() else {
            return;
        };
        let (paths, permit) = search.paths.close(&batch).await;
        let mut asking = JoinSet::new();
        for path in paths {
            let core = self.clone();
            asking.spawn(async move {
                let found = core.ask(vec![path.clone()]).await.remove(&path);
                (path, found)
            });
        }
        let answer_all = async {
            while let Some(answered) = asking.join_next().await {
                if let Ok((path, found)) = answered {
                    batch.answer(|answers| {
                        answers.insert(path, found);
                    });
                }
            }
        };
        tokio::pin!(answer_all);
        // A host that is slow with some paths does not hold up questions about others.
        let is_done = timeout(HOLD_UP_TIMEOUT, &mut answer_all).await.is_ok();
        drop(permit);
        if !is_done {
            answer_all.await;
        }
    }
}

/// Adds what a host has named.
fn add(answers: &mut Named, names: Vec<StorePath>) {
    for path in names {
        let named = answers.entry(HashPart::from(&path)).or_default();
        if !named.contains(&path) {
            named.push(path);
        }
    }
}
