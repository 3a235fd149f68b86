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
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking, yield_now};
use tokio::time::{Instant, timeout};

use super::{Found, Resolver, ResolverCore};
use crate::model::{HashPart, StorePath};
use crate::pool::NAMES_AT_ONCE;
use crate::watch;

/// How long this machine's own store may hold up an answer, and for how long it is not asked again after it has.
const LOCAL_TIMEOUT: Duration = Duration::from_millis(300);
/// See [`LOCAL_TIMEOUT`].
const LOCAL_PAUSE: Duration = Duration::from_secs(60);

/// How many questions for names may be on their way to each host. What is asked meanwhile goes out together.
const QUESTIONS_AT_ONCE: usize = 2;

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
    /// The batch that has not gone out yet: more hash parts may join.
    gathering: Mutex<Option<Arc<NameBatch>>>,
    permits: Semaphore,
}

/// Hash parts that hosts are asked about together.
struct NameBatch {
    hashes: Mutex<Vec<HashPart>>,
    answers: watch::Sender<Named>,
}

/// The paths that hosts have named.
type Named = HashMap<HashPart, Vec<StorePath>>;

type Answers = watch::Receiver<Named>;

impl Resolver {
    /// From now on, paths can be found by their hash parts: what hosts name is remembered. Their store directory is
    /// `store_dir`; `local` knows names, too.
    pub fn enable_find_by_hash(&self, store_dir: &str, local: Option<Arc<dyn NameSource>>) {
        self.core.cache.names.switch_on();
        let search = || NameSearch {
            store_dir: store_dir.to_owned(),
            local,
            local_rests_until: Mutex::default(),
            gathering: Mutex::default(),
            permits: Semaphore::new(QUESTIONS_AT_ONCE),
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
            if let Some(found) = self.first_found(&[named.clone()]).await {
                return Some(found);
            }
            tried.push(named);
        }
        let local = search.local_names(hash).await;
        if !local.is_empty() {
            // A hash part belongs to one name, and this machine's store knows it: hosts would name the same.
            return self.first_found(&local).await;
        }
        let mut answers = self.core.ask_for_names(search, hash);
        let mut named = 0;
        loop {
            let has_more =
                |answers: &Named| answers.get(&hash).is_some_and(|all| all.len() > named);
            let mine = |answers: &Named| answers.get(&hash).cloned().unwrap_or_default();
            // When all hosts have answered, nobody has it.
            let all = answers.wait_for(has_more, mine).await.ok()?;
            named = all.len();
            let new: Vec<StorePath> = all
                .into_iter()
                .filter(|path| !tried.contains(path))
                .collect();
            if let Some(found) = self.first_found(&new).await {
                return Some(found);
            }
            tried.extend(new);
        }
    }

    async fn first_found(&self, paths: &[StorePath]) -> Option<Found> {
        match paths {
            [] => None,
            paths => self.find(paths).await.into_iter().next(),
        }
    }
}

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
    /// Adds a hash part to the batch that is about to go out. Its answers end when all hosts have answered.
    fn ask_for_names(self: &Arc<Self>, search: &NameSearch, hash: HashPart) -> Answers {
        let mut gathering = search.gathering.lock();
        let start = || {
            let batch = Arc::new(NameBatch {
                hashes: Mutex::default(),
                answers: watch::Sender::new(HashMap::new()),
            });
            tokio::spawn(self.clone().run_name_batch(batch.clone()));
            batch
        };
        let batch = gathering.get_or_insert_with(start).clone();
        let mut hashes = batch.hashes.lock();
        if !hashes.contains(&hash) {
            hashes.push(hash);
        }
        if hashes.len() >= NAMES_AT_ONCE {
            *gathering = None;
        }
        batch.answers.subscribe()
    }

    /// Asks all hosts about a batch. Only this task keeps it, so that those who wait notice its end.
    async fn run_name_batch(self: Arc<Self>, batch: Arc<NameBatch>) {
        let Some(search) = self.names.0.get() else {
            return;
        };
        // Lets questions join that come at the same moment, or while others are on their way.
        yield_now().await;
        let Ok(_permit) = search.permits.acquire().await else {
            return;
        };
        let hashes = {
            let mut gathering = search.gathering.lock();
            gathering.take_if(|open| Arc::ptr_eq(open, &batch));
            std::mem::take(&mut *batch.hashes.lock())
        };
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
                Ok(Ok(names)) => batch.add(names.unwrap_or_default()),
                Ok(Err((host, error))) => self.pool.record_failure(host, &error).await,
                // The panic hook has reported it.
                Err(_) => {}
            }
        }
    }
}

impl NameBatch {
    fn add(&self, names: Vec<StorePath>) {
        if names.is_empty() {
            return;
        }
        self.answers.send_modify(|answers| {
            for path in names {
                let named = answers.entry(HashPart::from(&path)).or_default();
                if !named.contains(&path) {
                    named.push(path);
                }
            }
        });
    }
}
