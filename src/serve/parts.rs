//! The replies of the extension: parts of NARs.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::backend::NarParts;
use crate::wire::serve::extension::{Request, Status, put_busy, put_end};

/// How long the caller waits without a word while a listing or a digest is made.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the reply to a request. Nothing is made that the caller does not take.
pub(super) async fn answer(
    request: Request,
    parts: &dyn NarParts,
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let limit = match request.may_be_busy() {
        true => BUSY_INTERVAL,
        false => Duration::MAX,
    };
    let mut reply = parts.answer(request);
    loop {
        match timeout(limit, reply.next()).await {
            Ok(Some(piece)) => output.write_all(&piece).await?,
            Ok(None) => break,
            Err(_) => {
                let mut busy = Vec::new();
                put_busy(&mut busy);
                output.write_all(&busy).await?;
                output.flush().await?;
            }
        }
    }
    let (status, reason) = reply.end().await;
    if status != Status::Done {
        log::debug!("a part of a NAR is not sent: {reason}");
    }
    end(status, &reason, output).await
}

/// Writes the reply to a request that makes no sense.
pub(super) async fn refuse(reason: &str, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    end(Status::Unfit, reason, output).await
}

async fn end(
    status: Status,
    reason: &str,
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut end = Vec::new();
    put_end(&mut end, status, reason);
    output.write_all(&end).await
}
