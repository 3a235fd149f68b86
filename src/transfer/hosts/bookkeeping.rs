//! Which hosts have a path, and which sent it wrongly.

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::compression::CompressionChoices;
use super::throughput::Throughput;
use super::traffic::Traffic;
use crate::config::host::Host;
use crate::model::StorePath;
use crate::pool::{HostId, Pool};
use crate::remote::{RemoteError, RemoteErrorKind};
use crate::transfer::error::{HostFault, PathFault};

/// A round trip from which on a host is not in the same building.
const LINE_LATENCY: Duration = Duration::from_millis(5);

/// How many wrong NARs are remembered.
const MAX_WRONG_NARS: usize = 10_000;

/// The holders of paths, as far as known from host replies.
pub trait HolderLookup: Send + Sync {
    /// The hosts now known to have the NAR that callers were promised; `None` when there is none.
    fn holders(&self, path: &StorePath) -> Option<Arc<[HostId]>>;

    /// Has the hosts asked, in the background, which of these paths they have, as far as they were not asked yet. What they
    /// answer shows in [`holders`](Self::holders).
    fn look_for_holders(&self, _paths: Vec<StorePath>) {}

    /// A host does not have what it reported, or sent it wrongly.
    fn on_missing(&self, host: HostId, path: &StorePath);
}

/// The hosts, their throughput, and what they sent wrongly.
pub(in crate::transfer) struct HostBookkeeping {
    pub(in crate::transfer) pool: Arc<Pool>,
    pub(in crate::transfer) throughput: Arc<Throughput>,
    pub(in crate::transfer) compression: CompressionChoices,
    pub(in crate::transfer) traffic: Traffic,
    holder_lookup: Box<dyn HolderLookup>,
    /// What a host sent wrongly, with the fault. The host is not asked for it again.
    wrong_nars: Mutex<HashMap<(HostId, StorePath), HostFault>>,
    /// Paths whose chunks did not make the right NAR.
    wrong_in_chunks: Mutex<HashSet<StorePath>>,
}

impl HostBookkeeping {
    pub(in crate::transfer) fn new(pool: Arc<Pool>, holder_lookup: Box<dyn HolderLookup>) -> Self {
        Self {
            pool,
            throughput: Arc::default(),
            compression: CompressionChoices::default(),
            traffic: Traffic::default(),
            holder_lookup,
            wrong_nars: Mutex::default(),
            wrong_in_chunks: Mutex::default(),
        }
    }

    /// The hosts that have a path: those that were `reported` to the caller, and those found since.
    pub(in crate::transfer) fn holders(
        &self,
        path: &StorePath,
        reported: &[HostId],
    ) -> Vec<HostId> {
        let known = self.holder_lookup.holders(path);
        let known = known.iter().flat_map(|known| known.iter());
        let mut all = reported.to_vec();
        all.extend(known.filter(|host| !reported.contains(host)));
        all
    }

    /// Has the hosts asked that were not asked about these paths.
    pub(in crate::transfer) fn look_for_holders(&self, paths: Vec<StorePath>) {
        if !paths.is_empty() && self.pool.hosts().nth(1).is_some() {
            self.holder_lookup.look_for_holders(paths);
        }
    }

    pub(in crate::transfer) fn sent_wrong_content(&self, host: HostId, path: &StorePath) -> bool {
        self.wrong_nars.lock().contains_key(&(host, path.clone()))
    }

    /// The fault of this host with this path, if it is not asked for it again because of that.
    pub(in crate::transfer) fn known_wrong_content(
        &self,
        host: HostId,
        path: &StorePath,
    ) -> Option<HostFault> {
        let wrong_nars = self.wrong_nars.lock();
        let fault = wrong_nars.get(&(host, path.clone()))?;
        Some(HostFault::FailedBefore(Box::new(fault.clone())))
    }

    pub(in crate::transfer) async fn record_failure(
        &self,
        host: HostId,
        path: &StorePath,
        fault: &HostFault,
    ) {
        match fault {
            HostFault::Remote(error) => self.pool.record_failure(host, error).await,
            HostFault::FailedBefore(_) => log::debug!("{fault}"),
            HostFault::Path { fault: of_path, .. } => {
                match of_path {
                    PathFault::Lacks => log::debug!("{fault}"),
                    _ => self.pool.notify(fault),
                }
                if *of_path != PathFault::Differs {
                    self.holder_lookup.on_missing(host, path);
                }
                if let PathFault::Malformed(_) | PathFault::Mismatch(..) | PathFault::Disproved =
                    of_path
                {
                    let mut wrong_nars = self.wrong_nars.lock();
                    if wrong_nars.len() >= MAX_WRONG_NARS {
                        wrong_nars.clear();
                    }
                    wrong_nars.insert((host, path.clone()), fault.clone());
                }
            }
        }
    }

    /// Whether a low throughput of that host may be due to its line: what is near sends many small files no faster than
    /// this, whatever the line.
    pub(in crate::transfer) fn is_behind_a_line(&self, host: HostId) -> bool {
        let latency = self.pool.latency(host);
        latency.is_some_and(|latency| latency >= LINE_LATENCY)
    }

    /// Whether runs of small NARs come compressed from that host.
    pub(in crate::transfer) fn compresses_dumps(&self, host: HostId) -> bool {
        let settings = self.pool.host(host);
        let is_usual = settings.remote_program == [Host::DEFAULT_REMOTE_PROGRAM];
        // Another program may not be there for a shell.
        self.pool.may_compress(host)
            && (is_usual || !self.pool.may_compress_by_shell(host))
            // One for a shell, one for everything else.
            && self.pool.background_limit(host) >= 2
            && self.compression.choose_dumps(
                host,
                settings.compression.mode,
                self.throughput
                    .of(host)
                    .filter(|_| self.is_behind_a_line(host)),
            )
    }

    /// Records that a shell failed.
    pub(in crate::transfer) async fn record_shell_failure(&self, host: HostId, error: RemoteError) {
        let error = Arc::new(error);
        match error.kind {
            // Its other ways work, and a new channel does without.
            RemoteErrorKind::BadFrame(_) => {
                self.compression.record_broken(host);
                self.pool.notify(&*error);
            }
            // A shell that ends, or files that change, say nothing about the serve loop.
            RemoteErrorKind::Disconnected { .. } | RemoteErrorKind::NotAsListed { .. } => {
                log::debug!("{error}");
            }
            _ => self.pool.record_failure(host, &error).await,
        }
    }

    /// Records that the chunks of a path did not make the right NAR. Which host sent a wrong one is not known.
    pub(in crate::transfer) fn record_wrong_chunks(&self, path: &StorePath) {
        let mut wrong_in_chunks = self.wrong_in_chunks.lock();
        if wrong_in_chunks.len() < MAX_WRONG_NARS {
            wrong_in_chunks.insert(path.clone());
        }
    }

    pub(in crate::transfer) fn had_wrong_chunks(&self, path: &StorePath) -> bool {
        self.wrong_in_chunks.lock().contains(path)
    }
}
