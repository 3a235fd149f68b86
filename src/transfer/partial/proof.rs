//! Proves that what is kept of a NAR is the same as what hosts have.
//!
//! The files are listed at a host, and their contents are compared by digest, part by part. What differs, or follows
//! something that does, does not count. That blames nobody: the disk may have lost it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{OpenPartial, Partials};
use crate::model::PathInfo;
use crate::pool::HostId;
use crate::remote::{RemoteError, SegmentReader};
use crate::transfer::chunks::{ChunkedDownloads, contents_digest};
use crate::transfer::hosts::HostBookkeeping;
use crate::wire::nar::layout::{Layout, Segment};

/// The length of a part, in bytes: held in memory, and read by a host without a long silence.
const PART: u64 = 8 << 20;

/// How many digests are asked for ahead.
const AHEAD: usize = 4;

/// How many hosts are asked.
const MAX_HOSTS: usize = 4;

/// How far a file is right.
#[derive(Default)]
pub(in crate::transfer) struct Proof {
    /// So many bytes are the same as what hosts have.
    pub(in crate::transfer) size: u64,
    /// A host has something else behind them.
    pub(in crate::transfer) differs: bool,
    /// How the files of the path lie at the host that has proven the last of them.
    pub(in crate::transfer) index: Option<(HostId, Layout)>,
}

/// Proves the `size` bytes of a file. Hosts are asked in their order until all is proven.
pub(in crate::transfer) async fn prove(
    (bookkeeping, chunks): (&HostBookkeeping, &ChunkedDownloads),
    (info, holders): (&PathInfo, &[HostId]),
    (partials, file, size): (&Partials, &OpenPartial, u64),
) -> Proof {
    let mut proof = Proof::default();
    let size = size.min(info.nar_size);
    let (hosts, are_resting) = chunks.usable_or_resting(info, holders);
    for host in hosts.into_iter().take(MAX_HOSTS) {
        if proof.size == size {
            break;
        }
        // Failures are reported by the pool.
        let shell = match are_resting {
            true => bookkeeping.pool.shell_even_if_resting(host).await,
            false => bookkeeping.pool.shell(host).await,
        };
        let Ok(Some(mut shell)) = shell else {
            continue;
        };
        let layout = match shell.list(&info.path).await {
            Ok(layout) => layout.filter(|layout| layout.nar_size() == info.nar_size),
            Err(error) => {
                bookkeeping.record_shell_failure(host, error).await;
                continue;
            }
        };
        let Some(layout) = layout else {
            continue;
        };
        let before = proof.size;
        let mut parts = VecDeque::new();
        let mut at = proof.size;
        while at < size {
            parts.push_back(layout.segment(at, PART.min(size - at)));
            at += PART;
        }
        let compared = compare(&mut shell, parts, (partials, file), &mut proof).await;
        if proof.size > before {
            proof.index = Some((host, layout));
        }
        if let Err(error) = compared {
            bookkeeping.record_shell_failure(host, error).await;
        }
    }
    proof.differs &= proof.size < size;
    proof
}

/// Compares parts that follow each other, until one is not the same or the host cannot tell.
async fn compare(
    shell: &mut SegmentReader,
    mut parts: VecDeque<Segment>,
    (partials, file): (&Partials, &OpenPartial),
    proof: &mut Proof,
) -> Result<(), RemoteError> {
    let mut asked = VecDeque::new();
    let mut is_same = true;
    loop {
        while is_same
            && asked.len() < AHEAD
            && let Some(part) = parts.pop_front()
        {
            shell.request_contents_digest(&part);
            asked.push_back(part);
        }
        let Some(part) = asked.pop_front() else {
            return Ok(());
        };
        let theirs = shell.digest().await?;
        // The replies that are outstanding come all the same: the channel can be used further then.
        if !is_same {
            continue;
        }
        let (end, file) = (part.start() + part.len(), Arc::clone(file));
        let ours = partials.run(move || {
            let mut bytes = vec![0; usize::try_from(part.len()).unwrap_or_default()];
            file.read_at(&mut bytes, part.start())?;
            Ok(contents_digest(&part, &bytes))
        });
        // What cannot be read here is wrong, too.
        let ours = ours.await.ok().flatten();
        is_same = ours.is_some() && ours == theirs;
        if is_same {
            proof.size = end;
            proof.differs = false;
        } else {
            proof.differs |= theirs.is_some();
        }
    }
}
