//! Whole NARs as one frame.

use bytes::BytesMut;

use super::body::{Body, Length};
use super::replies::{Advance, Kind};
use super::{ExtensionChannel, NARS};
use crate::model::StorePath;
use crate::remote::{DumpsStep, RemoteError};
use crate::wire::serve::extension::Request;

impl ExtensionChannel {
    /// Asks for the NARs of these paths (at most [`MAX_NARS`](crate::wire::serve::extension::MAX_NARS)), of `len` bytes
    /// together, compressed at level `level` (of zstd, 0 for none) as one. They then come by [`ExtensionChannel::nars`], in
    /// their turn.
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
        let (reply, end) = match self.advance(Kind::Nars, true).await? {
            Advance::More => {
                let Some(oldest) = self.pending.front_mut() else {
                    return Ok(DumpsStep::End);
                };
                let (bytes, wire_len) = oldest.body.take();
                out.extend_from_slice(&bytes);
                return Ok(DumpsStep::More { wire_len });
            }
            Advance::OtherIsDue => return Ok(DumpsStep::End),
            Advance::End(reply, end) => (reply, end),
        };
        if let Err(reason) = end {
            log::debug!("{}: NARs from {} on: {reason}", self.host(), reply.path);
        }
        match reply.body.finish() {
            Ok(_) => Ok(DumpsStep::End),
            Err(source) => Err(self.malformed(NARS, source)),
        }
    }
}
