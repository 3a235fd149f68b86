//! Large NARs, which come in parts over many channels.

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
    let holders = queue.book.holders(&task.info.path, &task.holders);
    let parts = queue
        .chunks
        .start(&task.info, &holders, 0, task.priority.clone());
    if let Some(mut parts) = parts {
        task.set_meter(assigned.owner, &parts.meter());
        while let Some((buf, host)) = parts.more().await {
            match task.feed(assigned.owner, buf, host) {
                Ok(FeedOutcome::More) => {}
                Ok(FeedOutcome::Complete | FeedOutcome::Lost) => return assigned.finish(),
                Ok(FeedOutcome::Unfit(_)) | Err(_) => {
                    parts.report_wrong_content();
                    break;
                }
            }
        }
    }
    assigned.fail(true);
}
