//! A worker for large NARs, which come in chunks over many channels.

use std::sync::Arc;

use super::queue::{AssignedTask, ReadaheadQueue};
use super::task::FeedOutcome;

/// Brings one after the other.
pub(super) async fn run(queue: Arc<ReadaheadQueue>) {
    let mut changes = queue.subscribe();
    loop {
        changes.mark_seen();
        match queue.next_chunked_task() {
            Some(assigned) => bring(&queue, assigned).await,
            None => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn bring(queue: &ReadaheadQueue, assigned: AssignedTask) {
    let task = assigned.task.clone();
    let holders = queue.bookkeeping.holders(&task.info.path, &task.holders);
    let priority = task.priority.clone();
    let download = queue.chunks.start(&task.info, &holders, 0, priority);
    if let Some(mut download) = download {
        if task.open_file().await.is_err() {
            return assigned.fail(false);
        }
        task.set_chunk_meter(assigned.owner, &download.meter());
        while let Some(host) = download.more().await {
            match task.feed(assigned.owner, download.buffer(), host) {
                Ok(FeedOutcome::More) => {
                    if task.write_out().await.is_err() {
                        return assigned.fail(false);
                    }
                }
                Ok(FeedOutcome::Complete) => {
                    // What cannot be written stays in memory: a few pieces.
                    let _ = task.write_out().await;
                    return assigned.finish();
                }
                Ok(FeedOutcome::NotOwner) => return assigned.finish(),
                Ok(FeedOutcome::Wrong(_)) | Err(_) => {
                    download.report_wrong_content();
                    break;
                }
            }
        }
    }
    // Its hosts may have no shells, which shows at some of them sooner than at others.
    assigned.fail_in_chunks();
}
