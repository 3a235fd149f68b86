//! Large NARs, which come in parts over many channels.

use std::sync::Arc;

use super::desk::{Desk, Taken};
use super::job::Fed;

/// Brings one after the other.
pub(super) async fn run(desk: Arc<Desk>) {
    let mut changes = desk.subscribe();
    loop {
        changes.mark_seen();
        match desk.pick_large() {
            Some(taken) => bring(&desk, taken).await,
            None => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn bring(desk: &Desk, taken: Taken) {
    let job = taken.job.clone();
    let holders = desk.book.holders(&job.info.path, &job.holders);
    let parts = desk
        .striper
        .start(&job.info, &holders, 0, job.priority.clone());
    if let Some(mut parts) = parts {
        job.set_meter(taken.token, &parts.meter());
        while let Some((buf, host)) = parts.more().await {
            match job.feed(taken.token, buf, host) {
                Ok(Fed::More) => {}
                Ok(Fed::Complete | Fed::Lost) => return taken.finish(),
                Ok(Fed::Unfit(_)) | Err(_) => {
                    parts.came_wrongly();
                    break;
                }
            }
        }
    }
    taken.fail(true);
}
