//! Background checks of old answers, where the user has set a lifetime for which answers are believed: a path
//! may have gone from its host since another process asked. Without such a setting no old answer is believed
//! unchecked (`checks`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::cache::disk::unix_seconds;
use crate::model::{PathInfo, StorePath};
use crate::pool::HostId;
use crate::resolver::ResolverCore;

/// What was checked less than this many seconds ago is not checked again.
const RECHECK_AGE: u64 = 3600;

/// How many paths at each host are checked.
const PATHS_MAX: usize = 20_000;

/// Paths in one question.
const PATHS_PER_QUESTION: usize = 2_000;

/// How long to wait before the checks, so that the first download goes first.
const PAUSE: Duration = Duration::from_millis(100);

/// When the last background check began, in seconds of Unix time; 0 if there was none.
#[derive(Default)]
pub(in crate::resolver) struct Recheck(AtomicU64);

impl ResolverCore {
    /// At most once an hour, and in the background.
    pub(in crate::resolver) fn start_recheck(self: &Arc<Self>) {
        if !self.cache.lifetimes().is_set(true) {
            return;
        }
        let now = unix_seconds();
        let due = |last: u64| (now.abs_diff(last) >= RECHECK_AGE).then_some(now);
        let last = &self.recheck.0;
        if last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, due)
            .is_err()
        {
            return;
        }
        let core = self.clone();
        tokio::spawn(async move {
            sleep(PAUSE).await;
            for (host, old) in core.old_answers() {
                let core = core.clone();
                tokio::spawn(async move { core.check_again(host, &old).await });
            }
        });
    }

    /// Positive answers that are old.
    fn old_answers(&self) -> BTreeMap<HostId, Vec<Arc<PathInfo>>> {
        let now = unix_seconds();
        let mut old: BTreeMap<HostId, Vec<Arc<PathInfo>>> = BTreeMap::new();
        for (_, known) in self.cache.all() {
            for answer in known.answers() {
                if let Some(info) = answer.kind.info()
                    && now.abs_diff(answer.checked_at) >= RECHECK_AGE
                {
                    let all = old.entry(answer.host).or_default();
                    if all.len() < PATHS_MAX {
                        all.push(info.clone());
                    }
                }
            }
        }
        old
    }

    async fn check_again(&self, host: HostId, old: &[Arc<PathInfo>]) {
        for old in old.chunks(PATHS_PER_QUESTION) {
            let paths: Vec<StorePath> = old.iter().map(|info| info.path.clone()).collect();
            // A failure has been recorded and reported by the pool.
            let Ok(infos) = self.pool.query_path_infos(host, &paths).await else {
                return;
            };
            let hashes = old.iter().map(|info| (&info.path, info.nar_hash));
            let hashes: HashMap<_, _> = hashes.collect();
            // With its present signatures: they change while the NAR stays.
            let same = |info: &Arc<PathInfo>| hashes.get(&info.path) == Some(&info.nar_hash);
            let same: Vec<_> = infos.into_iter().filter(same).collect();
            let there: HashSet<_> = same.iter().map(|info| &info.path).collect();
            for path in paths.iter().filter(|path| !there.contains(path)) {
                log::debug!("{}: {path} has gone", self.pool.host(host));
                self.cache.forget_at(host, path);
            }
            // Recorded as checked, so that they are not asked for again soon.
            let paths: Vec<_> = same.iter().map(|info| info.path.clone()).collect();
            self.cache.record_answers(host, &paths, &same);
        }
    }
}
