//! One large NAR over several channels and hosts.
//!
//! ssh moves at most 2 MiB of a channel in a round trip, so on a long link a large NAR is much
//! faster in parts; and from two hosts it comes twice as fast as from one. Parts are read through a
//! shell, where the account has one, and put together in order. Whatever goes wrong here ends
//! with the plain transfer, which goes on from the same byte.
//!
//! | module | what it does |
//! | --- | --- |
//! | `parts` | which part is asked of whom; pure |
//! | `channel` | those who bring them |

mod channel;
mod parts;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::NarSink;
use super::ahead::FAR;
use super::book::Book;
use super::progress::TransferProgress;
use super::stream::{Stream, Taken};
use crate::model::PathInfo;
use crate::pool::HostId;
use channel::{Stripes, lead};

/// What is not worth the round trips that shells cost, in bytes.
const LEAST: u64 = 8 << 20;

/// How long the first part may take before the NAR is asked for in the plain way.
const START: Duration = Duration::from_secs(4);

/// Brings the rest of the NAR in parts, as far as that goes. Whether all of it has come, and was
/// right: then all has been passed on. Else `stream` tells from where to go on. `again` is for a
/// transfer that broke: parts then spare what has come already.
///
/// # Errors
/// When `sink` takes no more.
pub(super) async fn bring(
    book: &Arc<Book>,
    info: &PathInfo,
    holders: &[HostId],
    again: bool,
    (stream, sink, watch): (&mut Stream, &mut dyn NarSink, &dyn TransferProgress),
) -> io::Result<bool> {
    let from = stream.taken();
    let left = info.nar_size.saturating_sub(from);
    let worth = left >= LEAST || (again && from >= LEAST);
    if info.nar_hash.is_none() || !worth || book.came_wrongly_in_parts(&info.path) {
        return Ok(false);
    }
    let usable = |host: &&HostId| book.pool.is_well(**host) && !book.is_spoilt(**host, &info.path);
    let hosts: Vec<_> = holders.iter().filter(usable).copied().collect();
    let is_far = |host: &HostId| book.pool.latency(*host).is_some_and(|time| time >= FAR);
    if !(hosts.len() > 1 || again || hosts.iter().any(is_far)) {
        return Ok(false);
    }
    let stripes = Arc::new(Stripes::new(info.clone(), book.clone(), from));
    // Aborted when this ends early.
    let mut leads = JoinSet::new();
    for host in hosts {
        let channels = match is_far(&host) {
            true => book.pool.background_places(host),
            false => 1,
        };
        leads.spawn(lead(stripes.enter(), host, channels));
    }
    let mut buf = BytesMut::new();
    let mut wrong = false;
    let mut limit = START;
    while let Ok(Some(part)) = timeout(limit, stripes.next()).await {
        // Channels know by themselves what is too long.
        limit = Duration::MAX;
        match part.try_into_mut() {
            Ok(part) if buf.is_empty() => buf = part,
            Ok(part) => buf.extend_from_slice(&part),
            Err(part) => buf.extend_from_slice(&part),
        }
        let before = stream.taken();
        let Ok(taken) = stream.take(&mut buf) else {
            wrong = true;
            break;
        };
        watch.advance(stream.taken() - before);
        match taken {
            Taken::Nothing => {}
            Taken::Pass(bytes) => sink.write(bytes).await?,
            Taken::Complete => {
                // They end by themselves, once they have read what was asked for twice.
                leads.detach_all();
                let Ok(held) = stream.verify() else {
                    wrong = true;
                    break;
                };
                for bytes in held {
                    sink.write(bytes).await?;
                }
                return Ok(true);
            }
        }
    }
    if wrong {
        // Nobody can tell whose part it was.
        book.parts_came_wrongly(&info.path);
    }
    stream.roll_back();
    Ok(false)
}
