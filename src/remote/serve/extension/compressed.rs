//! Parts of NARs as their differences, and whole NARs as one frame.

use bytes::BytesMut;

use super::body::{Body, Length};
use super::{DELTA, ExtensionChannel, Kind, NARS, Step};
use crate::model::StorePath;
use crate::remote::link::{ReadKind, readable};
use crate::remote::{DumpsStep, RemoteError};
use crate::wire::serve::extension::{NarRange, Request, Status, max_frame_len};

impl ExtensionChannel {
    /// Asks for a part of a NAR as a frame that was made against a part of the NAR of `base`, which is here too, at level
    /// `level` (of zstd, 1 to 19). It then comes by [`ExtensionChannel::delta`], in its turn. Takes the host memory for both.
    pub fn request_delta(&mut self, part: NarRange, base: NarRange, level: u8) {
        let path = part.path.clone();
        // It is decompressed where the base is at hand.
        let length = Length::AtMost(max_frame_len(part.len));
        let request = Request::Delta { part, base, level };
        self.send((Kind::Delta, &path), &request, Body::new(length, 0));
    }

    /// The next outstanding frame. `None` when there is none, or when the host could not make it; the connection can be used
    /// further then.
    ///
    /// # Errors
    /// When the connection breaks or falls silent, or what comes is longer than such a frame. It is unusable then.
    pub async fn delta(&mut self) -> Result<Option<Vec<u8>>, RemoteError> {
        let Some((reply, end)) = self.reply(Kind::Delta).await? else {
            return Ok(None);
        };
        if let Err(reason) = end {
            log::debug!("{}: no delta of {}: {reason}", self.host(), reply.path);
            return Ok(None);
        }
        let frame = reply.body.finish();
        frame
            .map(Some)
            .map_err(|source| self.malformed(DELTA, source))
    }

    /// Asks for the NARs of these paths (at most [`MAX_NARS`](crate::wire::serve::extension::MAX_NARS)), of `len` bytes together, compressed at level `level` (of zstd, 0
    /// for none) as one. They then come by [`ExtensionChannel::nars`], in their turn.
    pub fn request_nars(&mut self, paths: Vec<StorePath>, len: u64, level: u8) {
        let Some(first) = paths.first().cloned() else {
            return;
        };
        let body = Body::new(Length::AtMost(len), level);
        self.send((Kind::Nars, &first), &Request::Nars { paths, level }, body);
    }

    /// Appends what comes next of the NARs that were asked for; as [`Shell::dumps`](crate::remote::Shell::dumps). They end
    /// before one that the host could not send, or within it. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection breaks or falls silent, or what comes is longer than they are. It is unusable then.
    pub async fn nars(&mut self, out: &mut BytesMut) -> Result<DumpsStep, RemoteError> {
        loop {
            let oldest = self.pending.front_mut();
            let Some(oldest) = oldest.filter(|oldest| oldest.kind == Kind::Nars) else {
                return Ok(DumpsStep::End);
            };
            let input = self.connection.link.input.buffer();
            let step = match oldest.end.take() {
                Some((status, reason)) => Ok(Step::End(status, reason)),
                None if self.broken => return Err(self.after_failure(NARS)),
                None => oldest.step(input),
            };
            let (bytes, wire_len) = oldest.body.take();
            out.extend_from_slice(&bytes);
            let has_come = !bytes.is_empty();
            match step {
                Ok(Step::NeedMore) if has_come => return Ok(DumpsStep::More { wire_len }),
                Ok(Step::End(status, reason)) if has_come => {
                    oldest.end = Some((status, reason));
                    return Ok(DumpsStep::More { wire_len });
                }
                Ok(Step::NeedMore) => {
                    let filled = self.connection.link.fill(NARS, ReadKind::Stream).await;
                    self.broken = filled.is_err();
                    filled?;
                }
                Ok(Step::Busy) => self.connection.link.finish_reply(),
                Ok(Step::End(status, reason)) => {
                    self.connection.link.finish_reply();
                    let Some(reply) = self.pending.pop_front() else {
                        return Ok(DumpsStep::End);
                    };
                    if status != Status::Done {
                        let reason = readable(reason.as_bytes());
                        log::debug!("{}: NARs from {} on: {reason}", self.host(), reply.path);
                    }
                    return match reply.body.finish() {
                        Ok(_) => Ok(DumpsStep::End),
                        Err(source) => Err(self.malformed(NARS, source)),
                    };
                }
                Err(source) => return Err(self.malformed(NARS, source)),
            }
        }
    }
}
