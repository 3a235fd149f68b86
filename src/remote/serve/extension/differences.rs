//! What paths are made of that other versions are here of: surveys, parts of files against parts of others, and parts of
//! several NARs as one. Each comes whole by [`ExtensionChannel::frame`], in its turn, and is decompressed by whoever asked.

use super::body::{Body, Length};
use super::replies::Kind;
use super::{ExtensionChannel, FRAME};
use crate::model::StorePath;
use crate::remote::RemoteError;
use crate::remote::inflater::inflate;
use crate::wire::serve::extension::{
    FilePart, MAX_SURVEY, NarPart, NarRange, Request, SurveyOf, SurveyedPath, max_frame_len,
    parse_survey,
};

/// The level at which surveys come: names compress well, and quickly.
const SURVEY_LEVEL: u8 = 3;

/// A frame of zstd's, as it came.
#[derive(Debug)]
pub struct FrameReply {
    /// All of it, or what came before the host failed.
    pub bytes: Vec<u8>,
    /// Why the host could not send it, if it could not. For logs.
    pub refusal: Option<String>,
    surveyed: Vec<SurveyedPath>,
}

impl ExtensionChannel {
    /// Asks for listings of these paths, and the digests of these files of theirs; [`ExtensionChannel::frame`], then
    /// [`FrameReply::surveyed`]. Costs the host reading the files. Limits are those of
    /// [`Request::Survey`](crate::wire::serve::extension).
    pub fn request_survey(&mut self, paths: Vec<SurveyedPath>) {
        let Some(first) = paths.first().map(|surveyed| surveyed.path.clone()) else {
            return;
        };
        let (surveyed, level) = (paths.clone(), SURVEY_LEVEL);
        self.request_frame(&first, &Request::Survey { paths, level }, MAX_SURVEY as u64);
        if let Some(last) = self.pending.back_mut() {
            last.surveyed = surveyed;
        }
    }

    /// Asks for a part of a NAR as a frame that was made against a part of a file of another path, which is here too, at
    /// level `level` (of zstd, 1 to 19); [`ExtensionChannel::frame`]. Takes the host memory for both.
    pub fn request_delta(&mut self, part: NarRange, base: FilePart, level: u8) {
        let (path, len) = (part.path.clone(), part.len);
        self.request_frame(&path, &Request::Delta { part, base, level }, len);
    }

    /// Asks for these parts of the NARs of `paths`, one behind the other, as one frame of level `level` (of zstd, 1 to 19);
    /// [`ExtensionChannel::frame`], then [`FrameReply::contents`].
    pub fn request_parts(&mut self, paths: Vec<StorePath>, parts: Vec<NarPart>, level: u8) {
        let Some(first) = paths.first().cloned() else {
            return;
        };
        let len = parts.iter().map(|part| part.len).sum();
        let request = Request::Parts {
            paths,
            parts,
            level,
        };
        self.request_frame(&first, &request, len);
    }

    fn request_frame(&mut self, path: &StorePath, request: &Request, len: u64) {
        // It is decompressed where its base is at hand.
        let body = Body::new(Length::AtMost(max_frame_len(len)), 0);
        self.send((Kind::Frame, path), request, body);
    }

    /// The next outstanding frame. `None` when there is none. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection breaks or falls silent, or what comes is longer than such a frame. It is unusable then.
    pub async fn frame(&mut self) -> Result<Option<FrameReply>, RemoteError> {
        let Some((reply, end)) = self.reply(Kind::Frame).await? else {
            return Ok(None);
        };
        let refusal = end.err().inspect(|reason| {
            log::debug!(
                "{}: no differences of {}: {reason}",
                self.host(),
                reply.path
            );
        });
        let surveyed = reply.surveyed;
        match reply.body.finish() {
            Ok(bytes) => Ok(Some(FrameReply {
                bytes,
                refusal,
                surveyed,
            })),
            Err(source) => Err(self.malformed(FRAME, source)),
        }
    }
}

impl FrameReply {
    /// What a survey says of the paths that were asked about, and what was asked about each; `None` where this is none.
    #[must_use]
    pub fn surveyed(self) -> Option<Vec<(SurveyedPath, SurveyOf)>> {
        if self.refusal.is_some() {
            return None;
        }
        let survey = inflate(&self.bytes, MAX_SURVEY)?;
        let said = parse_survey(&self.surveyed, &survey);
        let said = said.inspect_err(|error| log::debug!("{error}")).ok()?;
        Some(self.surveyed.into_iter().zip(said).collect())
    }

    /// `len` bytes of parts of NARs; `None` where these are none.
    #[must_use]
    pub fn contents(&self, len: u64) -> Option<Vec<u8>> {
        let len = usize::try_from(len)
            .ok()
            .filter(|_| self.refusal.is_none())?;
        let contents = inflate(&self.bytes, len)?;
        (contents.len() == len).then_some(contents)
    }
}
