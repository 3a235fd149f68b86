//! Workers for NARs that come as differences from what is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;

use super::queue::{AssignedTask, ReadaheadQueue};
use super::task::FeedOutcome;
use crate::pool::{HostId, ShellLease};
use crate::transfer::deltas::{ChosenBase, DeltaFault, DeltaFetch};

/// Decides which paths come so.
pub(super) async fn decide(queue: Arc<ReadaheadQueue>) {
    let mut changes = queue.subscribe();
    loop {
        changes.mark_seen();
        match queue.undecided() {
            Some((host, paths)) => {
                queue.deltas.decide(host, paths).await;
                queue.wake();
            }
            None => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Brings one after the other.
pub(super) async fn run(queue: Arc<ReadaheadQueue>) {
    let mut changes = queue.subscribe();
    loop {
        changes.mark_seen();
        match queue.next_delta_task(None) {
            Some((assigned, base)) => work(&queue, assigned, base).await,
            None => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A NAR that was begun.
struct Begun {
    assigned: AssignedTask,
    fetch: DeltaFetch,
}

/// Why a shell cannot be used further.
struct ShellLost;

/// Brings a NAR, and those that follow it from the same host, over one shell.
async fn work(queue: &Arc<ReadaheadQueue>, assigned: AssignedTask, base: Arc<ChosenBase>) {
    let host = base.host;
    let mut shell = match queue.bookkeeping.pool.shell(host).await {
        Ok(Some(shell)) if shell.has_zstd() && shell.is_shell() => shell,
        // Failures are reported by the pool.
        _ => {
            queue.deltas.reject(&assigned.task.info.path);
            return assigned.fail_blameless(true);
        }
    };
    let mut next = begin(queue, &mut shell, (assigned, base));
    while let Some(begun) = next.take() {
        match bring(queue, &mut shell, host, begun).await {
            Ok(behind) => next = behind,
            Err(ShellLost) => return,
        }
        if next.is_none() && !shell.has_waiters() {
            let task = queue.next_delta_task(Some(host));
            next = task.and_then(|task| begin(queue, &mut shell, task));
        }
    }
}

fn begin(
    queue: &ReadaheadQueue,
    shell: &mut ShellLease,
    (assigned, base): (AssignedTask, Arc<ChosenBase>),
) -> Option<Begun> {
    let options = queue.deltas.options(base.host);
    let fetch = DeltaFetch::start(shell.as_shell()?, assigned.task.info.clone(), base, options);
    Some(Begun { assigned, fetch })
}

/// Brings a NAR. When all of it is requested, the next one is requested behind it, and returned.
async fn bring(
    queue: &Arc<ReadaheadQueue>,
    shell: &mut ShellLease,
    host: HostId,
    Begun {
        assigned,
        mut fetch,
    }: Begun,
) -> Result<Option<Begun>, ShellLost> {
    let (task, activity) = (assigned.task.clone(), shell.activity());
    let meter = Arc::new(AtomicU64::new(0));
    task.set_chunk_meter(assigned.owner, &meter);
    let (mut buf, mut next) = (BytesMut::new(), None);
    loop {
        let Some(by_shell) = shell.as_shell() else {
            return Err(ShellLost);
        };
        let more = fetch.more(by_shell, &mut buf).await;
        if !matches!(more, Ok(true)) {
            give_up(queue, host, assigned, more.err()).await;
            return Err(ShellLost);
        }
        meter.fetch_add(buf.len() as u64, Ordering::Relaxed);
        activity.record_byte();
        match task.feed(assigned.owner, &mut buf, host) {
            Ok(FeedOutcome::More) => {}
            Ok(FeedOutcome::Complete) => {
                let (size, wire_len) = (task.info.nar_size, fetch.wire_len());
                queue.deltas.record_done(host, size, wire_len);
                assigned.finish();
                return Ok(next);
            }
            Ok(FeedOutcome::NotOwner) => {
                assigned.finish();
                return Err(ShellLost);
            }
            Ok(FeedOutcome::Wrong(_)) | Err(_) => {
                give_up(queue, host, assigned, Some(DeltaFault::other_nar())).await;
                return Err(ShellLost);
            }
        }
        if next.is_none() && fetch.has_requested_all() && !shell.has_waiters() {
            let task = queue.next_delta_task(Some(host));
            next = task.and_then(|task| begin(queue, shell, task));
        }
    }
}

/// It comes in another way.
async fn give_up(
    queue: &ReadaheadQueue,
    host: HostId,
    assigned: AssignedTask,
    fault: Option<DeltaFault>,
) {
    let path = assigned.task.info.path.clone();
    queue.deltas.reject(&path);
    queue.deltas.record(host, &path, fault).await;
    assigned.fail_blameless(true);
}
