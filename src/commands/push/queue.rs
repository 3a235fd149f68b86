//! `push --queue` writes down what is to be sent; `push --wait` waits until it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::{EXIT_ABSENT, EXIT_UNSENT, PushCommandError, code_of, open, roots};
use crate::cli::Push;
use crate::commands::format::{counted, shorten};
use crate::commands::{Status, store_root};
use crate::config::Config;
use crate::config::host::Host;
use crate::engine::PushSender;
use crate::folder::{Environment, Purpose};
use crate::ipc::{Identity, Launcher, wake_or_spawn};
use crate::local_store::StoreLayout;
use crate::model::StorePath;
use crate::push::PushError;
use crate::push_queue::{Entry, PushQueue, QueueError};
use crate::report;

/// How often it is looked whether all is sent.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often the engine is called again: it may have ended.
const WAKE_INTERVAL: Duration = Duration::from_secs(5);

/// How often a line tells how much is left.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// After how many tries in vain it is not waited for a path any longer.
const TRIES_WHILE_WAITING: u32 = 3;

/// Who sends what is queued.
#[derive(Debug)]
pub enum QueueSender {
    /// The engine of that identity.
    Engine(Identity, Launcher),
    /// This process, with that configuration, while it waits.
    Here(Box<Config>),
}

/// Writes down what `args` ask for.
///
/// # Errors
/// When nothing could be written down.
pub async fn push_queue(args: &Push, config: &Config, sender: &QueueSender) -> Status {
    match add(args, config).await {
        Ok((added, absent)) => {
            if added > 0 {
                wake(sender, false).await;
            }
            for path in &absent {
                report::error(&PushCommandError::Push(PushError::NotValid(path.clone())));
            }
            Ok(if absent.is_empty() { 0 } else { EXIT_ABSENT })
        }
        Err(error) if code_of(&error) != 1 => {
            report::error(&error);
            Ok(code_of(&error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives how many paths were added, and those that are not valid here.
async fn add(args: &Push, config: &Config) -> Result<(usize, Vec<StorePath>), PushCommandError> {
    let roots = roots(args, config).await?;
    if !config.enabled {
        return Err(PushCommandError::SwitchedOff);
    }
    if config.push_hosts.is_empty() {
        return Err(PushCommandError::NoHosts);
    }
    let hosts: Vec<String> = config.push_hosts.iter().map(Host::url).collect();
    let root = store_root(&args.store);
    let layout = StoreLayout::with_store_dir(&config.store_dir);
    let for_derivations = args.outputs;
    let add = move || -> Result<_, PushCommandError> {
        let root = absolute(&root);
        let (store, roots) = open(&root, layout, roots, for_derivations)?;
        let valid = store.query_valid_paths(&roots).map_err(PushError::Store)?;
        let absent = roots.into_iter().filter(|root| !valid.contains(root));
        let absent = absent.collect();
        if !valid.is_empty() {
            PushQueue::open(&queue_environment())?.add(&root, &valid, &hosts)?;
        }
        Ok((valid.len(), absent))
    };
    let (added, absent) = spawn_blocking(add).await.map_err(PushError::Reading)??;
    let hosts = counted(config.push_hosts.len() as u64, "host");
    log::debug!("queued {} for {hosts}", counted(added as u64, "path"));
    Ok((added, absent))
}

/// Waits until all that is queued was sent.
///
/// # Errors
/// When the queue cannot be used.
pub async fn push_wait(args: &Push, sender: &QueueSender) -> Status {
    match wait(args, sender).await {
        Ok(true) => Ok(0),
        Ok(false) => Ok(EXIT_UNSENT),
        Err(error) => Err(error.into()),
    }
}

/// Whether all was sent.
async fn wait(args: &Push, sender: &QueueSender) -> Result<bool, PushCommandError> {
    let queue = blocking(|| PushQueue::open_existing(&queue_environment())).await?;
    let Some(queue) = queue.map(Arc::new) else {
        return Ok(true);
    };
    let started = Instant::now();
    let limit = args.timeout.map(Duration::from_secs);
    let before = on(&queue, |queue| {
        queue.make_due()?;
        queue.entries()
    });
    let before = before.await?;
    if !before.is_empty() {
        wake(sender, true).await;
    }
    // Ends what is in it when it is dropped.
    let mut here = JoinSet::new();
    if let QueueSender::Here(config) = sender
        && !before.is_empty()
    {
        here.spawn(PushSender::new(config, queue_environment()).run());
    }
    let tries: HashMap<i64, u32> = before.iter().map(|entry| (entry.id, entry.tries)).collect();
    let in_vain = |entry: &Entry| {
        let before = tries.get(&entry.id).copied().unwrap_or(0);
        entry.tries >= before + TRIES_WHILE_WAITING
    };
    let (mut woken, mut told) = (started, started);
    let left = loop {
        let left = on(&queue, PushQueue::entries).await?;
        let is_over = limit.is_some_and(|limit| started.elapsed() >= limit);
        if is_over || left.iter().all(in_vain) {
            break left;
        }
        if woken.elapsed() >= WAKE_INTERVAL {
            woken = Instant::now();
            wake(sender, false).await;
        }
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            log::info!("{} to be sent yet", counted(left.len() as u64, "path"));
        }
        sleep(LOOK_INTERVAL).await;
    };
    let given_up = on(&queue, PushQueue::take_given_up).await?;
    for path in &given_up {
        log::error!(
            "{} was not sent to {}: {}",
            path.path,
            queued_host(&path.host),
            path.reason
        );
    }
    for entry in &left {
        let reason = entry.reason.as_deref().unwrap_or("its turn has not come");
        let host = queued_host(&entry.host);
        log::error!("{} is not sent to {host} yet: {reason}", entry.path);
    }
    if !left.is_empty() {
        let count = counted(left.len() as u64, "path");
        log::warn!("{count} stay queued, and are tried again");
    }
    Ok(left.is_empty() && given_up.is_empty())
}

/// A host of the queue, for people.
pub(in crate::commands) fn queued_host(host: &str) -> String {
    Host::parse(host).map_or_else(|_| shorten(host, 300), |host| host.to_string())
}

async fn wake(sender: &QueueSender, is_urgent: bool) {
    if let QueueSender::Engine(identity, launcher) = sender
        && let Err(error) = wake_or_spawn(identity, launcher, is_urgent).await
    {
        log::debug!("the engine was not called: {error}");
    }
}

/// Where the queue is.
pub(in crate::commands) fn queue_environment() -> Environment {
    Environment::of_process_for(Purpose::State)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

async fn on<T: Send + 'static>(
    queue: &Arc<PushQueue>,
    ask: impl FnOnce(&PushQueue) -> Result<T, QueueError> + Send + 'static,
) -> Result<T, PushCommandError> {
    let queue = queue.clone();
    blocking(move || ask(&queue)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, PushCommandError> {
    let done = spawn_blocking(work).await.map_err(PushError::Reading)?;
    Ok(done?)
}
