//! Workers for NARs that are made from what is here alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;

use super::queue::ReadaheadQueue;
use super::task::{FeedOutcome, OwnerId, ReadaheadTask};
use crate::transfer::blocking;
use crate::transfer::deltas::Rebuild;

/// Makes one after the other.
pub(super) async fn run(queue: Arc<ReadaheadQueue>) {
    let mut changes = queue.subscribe();
    loop {
        changes.mark_seen();
        let Some((assigned, rebuild)) = queue.next_rebuild_task() else {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };
        let (task, owner) = (assigned.task.clone(), assigned.owner);
        let meter = Arc::new(AtomicU64::new(0));
        task.set_chunk_meter(owner, &meter);
        let made = blocking::run(rebuild.may_block(), {
            let (task, rebuild) = (task.clone(), rebuild.clone());
            move || make(&task, owner, &rebuild, &meter)
        });
        match made.await.and_then(|made| made) {
            Ok(is_whole) => {
                if is_whole {
                    queue
                        .deltas
                        .record_done(rebuild.host, task.info.nar_size, 0);
                }
                assigned.finish();
            }
            Err(error) => {
                queue
                    .deltas
                    .reject_rebuild(&task.info.path, &error.to_string());
                assigned.fail_blameless(true);
            }
        }
    }
}

/// Makes all of it, unless nobody wants it any more. Blocks.
fn make(
    task: &ReadaheadTask,
    owner: OwnerId,
    rebuild: &Rebuild,
    meter: &AtomicU64,
) -> io::Result<bool> {
    let (mut nar, mut buf) = (rebuild.open(&task.info)?, BytesMut::new());
    while let Some(bytes) = nar.next()? {
        meter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match buf.is_empty() {
            true => buf = bytes,
            false => buf.extend_from_slice(&bytes),
        }
        match task.feed(owner, &mut buf, rebuild.host) {
            Ok(FeedOutcome::More) => {}
            Ok(FeedOutcome::Complete) => return Ok(true),
            Ok(FeedOutcome::NotOwner) => return Ok(false),
            Ok(FeedOutcome::Wrong(_)) | Err(_) => {
                return Err(io::Error::other("with other hashes it is another NAR"));
            }
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
