//! Sends store paths of this machine to hosts: the write direction.
//!
//! ```text
//! roots -> plan: closure, infos, signatures -> each host: one question, then many paths in flight -> report
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `plan` | the closure of the roots in the local store, references first |
//! | `nars` | reads and verifies NARs, once for all hosts |
//! | `host` | one host: asks, opens lanes |
//! | `failures` | what follows when a lane ends: begin again, leave a path out, give up |
//! | `target` | what the lanes to one host share |
//! | `lane` | one channel to a host: paths go out, acknowledgements come back |
//! | `blocks` | a lane that takes blocks: when it pays, what follows when it ends |
//! | `block_state` | what it has come to |
//! | `carrier` | what carries a lane's operations: a connection, or blocks |
//! | `pace` | whether the link is slow |
//! | `schedule` | which path may go on which lane; no IO |
//! | `refusal` | what a host that refused a path meant |
//! | `key_file` | the secret key that signs |
//! | `report` | what became of it |
//! | `error` | what can go wrong |
//!
//! A host needs nothing but `nix-store --serve --write`. It registers a path only when all of it came and its
//! references are valid, so whatever is interrupted leaves valid paths only, and the next push goes on from there.

mod block_state;
mod blocks;
mod carrier;
mod error;
mod failures;
mod host;
mod key_file;
mod lane;
mod nars;
mod pace;
mod plan;
mod refusal;
mod report;
mod schedule;
mod target;

use std::sync::Arc;

pub use error::{HostFault, PathFault, PushError};
pub use key_file::{KeyFileError, read_secret_key};
pub use report::{CompressedBytes, FailedPath, HostReport, PushReport, PushTotals};

use nars::Nars;
use plan::Plan;
use target::{Common, Target};
use tokio::task::JoinSet;

use crate::local_store::LocalStore;
use crate::model::{SecretKey, StorePath};
use crate::pool::{HostId, Pool};
use crate::transfer::progress::Progress;

/// What is to be sent where.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Paths of the local store.
    pub roots: Vec<StorePath>,
    /// Hosts of the pool that is given to [`push`].
    pub hosts: Vec<HostId>,
    /// How.
    pub options: PushOptions,
}

/// How paths are sent.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// Also everything that the roots refer to.
    pub closure: bool,
    /// Also the derivations that built the roots, where they are valid here, with what those refer to.
    pub derivers: bool,
    /// Only finds out what is missing where.
    pub dry_run: bool,
    /// A root that is not valid (any more) is left out and told in [`PushReport::gone`]; it is an error otherwise.
    pub roots_may_be_gone: bool,
    /// Nobody waits for it: questions of others find a free channel to the host.
    pub in_background: bool,
    /// Signs what is sent.
    pub key: Option<Arc<SecretKey>>,
}

impl Default for PushOptions {
    /// The closure, at once, without further signatures.
    fn default() -> Self {
        Self {
            closure: true,
            derivers: false,
            dry_run: false,
            roots_may_be_gone: false,
            in_background: false,
            key: None,
        }
    }
}

/// Where the progress of a push can be seen while it runs.
#[derive(Clone)]
pub struct PushProgress {
    /// Each path on its way to each host.
    pub transfers: Arc<dyn Progress>,
    /// Sums over all hosts.
    pub totals: Arc<PushTotals>,
}

/// Sends `request` to all its hosts at the same time, each NAR read once for all of them where they are about equally
/// fast. A host that fails costs itself only: see [`HostReport::error`]. Dropping the future closes all channels and
/// ends all work; hosts have valid paths only then, too.
///
/// # Errors
/// When nothing can be sent anywhere: a root is not valid, or the local store cannot be read.
pub async fn push(
    request: &PushRequest,
    pool: &Arc<Pool>,
    store: &Arc<LocalStore>,
    progress: &PushProgress,
) -> Result<PushReport, PushError> {
    let (roots, options) = (request.roots.clone(), request.options.clone());
    let from = store.clone();
    let read = move || Plan::read(&from, &roots, &options);
    let mut plan = tokio::task::spawn_blocking(read)
        .await
        .map_err(PushError::Reading)??;
    let gone = std::mem::take(&mut plan.gone);
    let (paths, nar_bytes) = (plan.items.len(), plan.nar_bytes());
    let plan = Arc::new(plan);
    let common = Arc::new(Common {
        pool: pool.clone(),
        nars: Nars::new(plan.clone(), store.clone(), request.hosts.len()),
        plan,
        options: request.options.clone(),
        progress: progress.clone(),
    });
    let hosts = request.hosts.iter();
    let hosts: Vec<_> = hosts
        .map(|host| Arc::new(Target::new(common.clone(), *host)))
        .collect();
    let mut running = JoinSet::new();
    for (index, host) in hosts.iter().enumerate() {
        let host = host.clone();
        running.spawn(async move { (index, host.run().await) });
    }
    let stopped = |host: &Arc<Target>| Some(HostFault::Stopped(host.name().to_owned()));
    let mut faults: Vec<_> = hosts.iter().map(stopped).collect();
    while let Some(ended) = running.join_next().await {
        // The panic hook has reported a panic.
        if let Ok((index, fault)) = ended {
            faults[index] = fault;
        }
    }
    let reports = hosts.iter().zip(faults);
    Ok(PushReport {
        hosts: reports.map(|(host, fault)| host.report(fault)).collect(),
        gone,
        paths,
        nar_bytes,
    })
}
