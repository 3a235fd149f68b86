//! What a host sends next, which is waited for as long as it sends something.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::fault::{DeltaFault, unsuitable};
use crate::remote::{Difference, RemoteError, SegmentReader};

/// How long the host may send nothing: it works that long on the largest patch.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// The oldest outstanding difference.
pub(super) async fn difference(reader: &mut SegmentReader) -> Result<Difference, DeltaFault> {
    let reply = unless_silent(reader.meter(), reader.difference()).await?;
    reply.ok_or_else(|| unsuitable("nothing is outstanding"))
}

/// The digests of so many blocks; `None` for those of which the host cannot tell.
pub(super) async fn block_digests(
    reader: &mut SegmentReader,
    count: usize,
) -> Result<Vec<Option<[u8; 32]>>, DeltaFault> {
    let mut digests = Vec::new();
    while digests.len() < count {
        let next = reader.meter();
        let next = unless_silent(next, reader.block_digests(count - digests.len()));
        digests.extend(next.await?);
    }
    Ok(digests)
}

async fn unless_silent<T>(
    meter: Arc<AtomicU64>,
    reply: impl Future<Output = Result<T, RemoteError>>,
) -> Result<T, DeltaFault> {
    tokio::pin!(reply);
    let mut before = None;
    loop {
        match timeout(SILENCE_MAX, &mut reply).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(error)) => return Err(DeltaFault::Remote(error.into())),
            Err(_) => {
                let now = meter.load(Ordering::Relaxed);
                if before.replace(now) == Some(now) || now == 0 {
                    let secs = SILENCE_MAX.as_secs();
                    return Err(unsuitable(format!("the host sent nothing for {secs} s")));
                }
            }
        }
    }
}
