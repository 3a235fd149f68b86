//! The replies of the extension: parts of NARs.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::backend::NarSegments;
use crate::wire::serve::extension::{Request, Status, put_busy, put_end};

/// How long the caller waits without a word while a listing or a digest is made.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the reply to a request. Nothing is made that the caller does not take.
pub(super) async fn answer(
    request: Request,
    segments: &dyn NarSegments,
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let limit = match request.may_be_busy() {
        true => BUSY_INTERVAL,
        false => Duration::MAX,
    };
    let mut reply = segments.answer(request);
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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;
    use crate::backend::SegmentReply;
    use crate::model::StorePath;
    use crate::wire::serve::extension::{ReplyDecoder, ReplyStep};

    /// Takes so long before it ends.
    struct Slow(Duration);

    impl NarSegments for Slow {
        fn answer(&self, _: Request) -> SegmentReply {
            let (pieces, taken) = mpsc::channel(1);
            let limit = self.0;
            let work = async move {
                sleep(limit).await;
                drop(pieces);
                (Status::Failed, "too late".to_owned())
            };
            SegmentReply::new(taken, tokio::spawn(work))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_caller_hears_of_long_work_but_not_in_a_chunk() {
        let path = || StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let digest = Request::Digest {
            path: path(),
            start: 0,
            len: 1,
            contents_only: false,
        };
        let chunk = Request::Chunk {
            path: path(),
            start: 0,
            len: 1,
            level: 0,
        };
        for (request, busy) in [(digest, 3), (chunk, 0)] {
            let mut out = Vec::new();
            let slow = Slow(BUSY_INTERVAL * 3 + Duration::from_secs(1));
            let mut decoder = ReplyDecoder::new(request.may_be_busy());
            answer(request, &slow, &mut out).await.unwrap();
            let mut buf = BytesMut::from(&out[..]);
            for _ in 0..busy {
                assert_eq!(decoder.step(&mut buf), Ok(Some(ReplyStep::Busy)));
            }
            let end = ReplyStep::End(Status::Failed, "too late".to_owned());
            assert_eq!(decoder.step(&mut buf), Ok(Some(end)));
            assert!(buf.is_empty());
        }
    }
}
