//! What one host is to get now.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{PATH_TRIES_MAX, PushSender, blocking, pause_after};
use crate::config::Config;
use crate::config::host::Host;
use crate::engine::push_pool;
use crate::hint::Hint;
use crate::local_store::{LocalStore, StoreLayout};
use crate::model::StorePath;
use crate::pool::Pool;
use crate::push::{
    self, HostReport, PathFault, PushOptions, PushProgress, PushReport, PushRequest,
    read_secret_key,
};
use crate::push_queue::{Entry, PushQueue, QueueError};
use crate::transfer::progress::NoProgress;

/// How many paths are sent together, with all that they refer to.
const BATCH_MAX: usize = 500;

/// How a host did.
pub(super) enum HostOutcome {
    Answered,
    Failed,
}

/// What is to become of an entry.
enum Fate {
    Sent,
    /// It is tried again: with the host, or by itself.
    PutOff(String, Whose),
    GivenUp(String),
}

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Host,
    Path,
}

impl PushSender {
    /// Sends to a host what is due.
    pub(super) async fn send_to(
        &self,
        queue: &Arc<PushQueue>,
        host: &str,
    ) -> Result<HostOutcome, QueueError> {
        let (of_queue, name) = (queue.clone(), host.to_owned());
        let due = blocking(move || of_queue.due_for(&name, BATCH_MAX)).await?;
        let mut by_store: BTreeMap<PathBuf, Vec<Entry>> = BTreeMap::new();
        for entry in due {
            by_store.entry(entry.store.clone()).or_default().push(entry);
        }
        let mut outcome = HostOutcome::Answered;
        for (store, entries) in by_store {
            let fates = self.send_batch(&store, host, &entries).await;
            let failed = |fate: &Fate| matches!(fate, Fate::PutOff(_, Whose::Host));
            if fates.iter().any(failed) {
                outcome = HostOutcome::Failed;
            }
            let of_queue = queue.clone();
            blocking(move || record(&of_queue, entries, fates)).await?;
        }
        Ok(outcome)
    }

    /// Sends paths of one store to a host. Gives the fate of each.
    async fn send_batch(&self, store: &Path, host: &str, entries: &[Entry]) -> Vec<Fate> {
        let all = |reason: String, whose| -> Vec<Fate> {
            let fate = |_| Fate::PutOff(reason.clone(), whose);
            entries.iter().map(fate).collect()
        };
        let pool = match self.pool(host) {
            Ok(pool) => pool,
            Err(reason) => {
                let fate = |_| Fate::GivenUp(reason.clone());
                return entries.iter().map(fate).collect();
            }
        };
        let layout = StoreLayout::with_store_dir(&self.config.store_dir);
        let root = store.to_owned();
        let opened = spawn_blocking(move || LocalStore::open_with(&root, layout));
        let local = match opened.await {
            Ok(Ok(local)) => Arc::new(local),
            Ok(Err(error)) => return all(error.to_string(), Whose::Path),
            Err(error) => return all(error.to_string(), Whose::Path),
        };
        let key = match self.config.push_signing_key.clone() {
            None => None,
            Some(file) => match spawn_blocking(move || read_secret_key(&file)).await {
                Ok(Ok(key)) => Some(Arc::new(key)),
                Ok(Err(error)) => return all(error.to_string(), Whose::Path),
                Err(error) => return all(error.to_string(), Whose::Path),
            },
        };
        let request = PushRequest {
            roots: entries.iter().map(|entry| entry.path.clone()).collect(),
            hosts: pool.hosts().collect(),
            options: PushOptions {
                roots_may_be_gone: true,
                in_background: true,
                key,
                ..PushOptions::default()
            },
        };
        let progress = PushProgress {
            transfers: Arc::new(NoProgress),
            totals: self.totals.clone(),
        };
        match push::push(&request, &pool, &local, &progress).await {
            Ok(report) => fates(&report, entries),
            Err(error) => all(error.to_string(), Whose::Path),
        }
    }

    /// The connections to a host, or why it is none.
    fn pool(&self, host: &str) -> Result<Arc<Pool>, String> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(host) {
            return Ok(pool.clone());
        }
        let parsed = Host::parse(host).map_err(|error| error.to_string())?;
        let config = Config {
            push_hosts: vec![parsed],
            ..self.config.clone()
        };
        // The queue tells what failed to those who ask.
        let notify = Arc::new(|error: &(dyn Hint + 'static)| log::debug!("{error}"));
        let pool = push_pool(&config, notify);
        pools.insert(host.to_owned(), pool.clone());
        Ok(pool)
    }
}

/// What a push to one host says of each entry.
fn fates(report: &PushReport, entries: &[Entry]) -> Vec<Fate> {
    let Some(host) = report.hosts.first() else {
        return Vec::new();
    };
    let faults: HashMap<&StorePath, &Arc<PathFault>> = host
        .failed
        .iter()
        .map(|failed| (&failed.path, &failed.fault))
        .collect();
    let fate = |entry: &Entry| {
        if report.gone.contains(&entry.path) {
            return Fate::GivenUp("it is not in the local store any more".to_owned());
        }
        if is_there(host, &entry.path) {
            return Fate::Sent;
        }
        match (cause(&faults, &entry.path), &host.error) {
            (Some(fault), _) => Fate::PutOff(fault.to_string(), Whose::Path),
            (None, Some(error)) => Fate::PutOff(error.to_string(), Whose::Host),
            (None, None) => Fate::PutOff("it was not sent".to_owned(), Whose::Path),
        }
    };
    entries.iter().map(fate).collect()
}

/// Whether the host has a path. One that it has, has all that it refers to.
fn is_there(host: &HostReport, path: &StorePath) -> bool {
    // A host that failed before it said what it lacks lacks all.
    let is_known = host.error.is_none() || host.there + host.sent + host.missing.len() > 0;
    is_known && !host.missing.contains(path)
}

/// What kept a path from being sent: its own fault, or that of what it refers to.
fn cause<'a>(
    faults: &HashMap<&StorePath, &'a Arc<PathFault>>,
    path: &StorePath,
) -> Option<&'a Arc<PathFault>> {
    let mut fault = *faults.get(path)?;
    for _ in 0..faults.len() {
        match &**fault {
            PathFault::Reference { reference, .. } => match faults.get(reference) {
                Some(deeper) => fault = *deeper,
                None => break,
            },
            _ => break,
        }
    }
    Some(fault)
}

/// Writes down what became of the entries. Blocks.
fn record(queue: &PushQueue, entries: Vec<Entry>, fates: Vec<Fate>) -> Result<(), QueueError> {
    let mut sent = Vec::new();
    for (entry, fate) in entries.into_iter().zip(fates) {
        let tries = entry.tries + 1;
        match fate {
            Fate::Sent => sent.push(entry),
            Fate::PutOff(reason, Whose::Path) if tries >= PATH_TRIES_MAX => {
                give_up(queue, entry, &format!("{reason} (tried {tries} times)"))?;
            }
            Fate::PutOff(reason, _) => {
                log::debug!("{} is sent to {} later: {reason}", entry.path, entry.host);
                queue.put_off(
                    std::slice::from_ref(&entry),
                    &reason,
                    pause_after(entry.tries),
                )?;
            }
            Fate::GivenUp(reason) => give_up(queue, entry, &reason)?,
        }
    }
    queue.remove_sent(&sent)
}

fn give_up(queue: &PushQueue, entry: Entry, reason: &str) -> Result<(), QueueError> {
    log::warn!(
        "{} will not be sent to {}: {reason}",
        entry.path,
        entry.host
    );
    queue.give_up(std::slice::from_ref(&entry), reason)
}
