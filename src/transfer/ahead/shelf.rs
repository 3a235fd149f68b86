//! What is being read ahead for all callers, so that two of them that want the same NAR get it once.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::budget::Reservation;
use super::job::{Job, Reader, Token};
use crate::model::{PathInfo, StorePath};

/// So many entries are kept before those of NARs that are gone are looked for.
const FEW: usize = 1024;

#[derive(Default)]
pub(super) struct Shelf {
    jobs: Mutex<HashMap<StorePath, Weak<Job>>>,
    tokens: AtomicU64,
}

impl Shelf {
    /// One that no worker of any caller has had.
    pub(super) fn new_token(&self) -> Token {
        Token(self.tokens.fetch_add(1, Ordering::Relaxed))
    }

    /// Reads along, if the same NAR is being read ahead for another caller, nothing of it is gone, and
    /// `reserve` gives room for it.
    pub(super) fn join(
        &self,
        info: &PathInfo,
        reserve: impl FnOnce() -> Option<Reservation>,
    ) -> Option<Reader> {
        let jobs = self.jobs.lock();
        let job = jobs.get(&info.path)?.upgrade()?;
        drop(jobs);
        let same = (job.info.nar_hash, job.info.nar_size) == (info.nar_hash, info.nar_size);
        same.then(|| job.join(reserve))?
    }

    pub(super) fn put(&self, job: &Arc<Job>) {
        let mut jobs = self.jobs.lock();
        if jobs.len() >= FEW && jobs.len() == jobs.capacity() {
            jobs.retain(|_, job| job.strong_count() > 0);
        }
        jobs.insert(job.info.path.clone(), Arc::downgrade(job));
    }
}
