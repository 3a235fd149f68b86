//! Surveys: what there is of several paths, and the hashes of some of their files.

use super::{MAX_ENTRIES, MAX_LISTING, MAX_NAMES, MAX_SURVEYED, SurveyedPath, parse_listing};
use crate::wire::nar::layout::Layout;
use crate::wire::{Cursor, Stop, WireError, put_u64};

/// Longest survey, in bytes.
pub const MAX_SURVEY: usize = MAX_LISTING + 8 * MAX_SURVEYED + DIGEST_LEN * MAX_NAMES;

/// In place of the SHA-256 of a file that is not there or cannot be read.
pub const NO_DIGEST: [u8; DIGEST_LEN] = [0; DIGEST_LEN];

const DIGEST_LEN: usize = 32;

/// What a survey says of a path.
#[derive(Debug)]
pub struct SurveyOf {
    /// Its files; `None` where it cannot be listed.
    pub layout: Option<Layout>,
    /// The SHA-256 of each file that was asked about, in that order; `None` where there is none.
    pub digests: Vec<Option<[u8; 32]>>,
}

/// Appends what stands before a listing of `len` bytes, which has to follow, and before the digests behind it. 0 where the
/// path cannot be listed.
pub fn put_survey_head(out: &mut Vec<u8>, len: usize) {
    put_u64(out, len as u64);
}

/// What a whole survey says of the paths that it was asked for.
///
/// # Errors
/// When it is no survey of these paths, or has too long listings.
pub fn parse_survey(asked: &[SurveyedPath], survey: &[u8]) -> Result<Vec<SurveyOf>, WireError> {
    let (mut c, mut entries) = (Cursor::new(survey), MAX_ENTRIES);
    let surveyed = asked.iter().map(|asked| one(&mut c, asked, &mut entries));
    let surveyed = surveyed.collect::<Result<_, _>>().map_err(whole)?;
    if c.position() != survey.len() {
        return Err(WireError::new("survey", "its end", "more"));
    }
    Ok(surveyed)
}

/// `entries`: how many of them there may still be; paths that have more count as not listed.
fn one(c: &mut Cursor<'_>, asked: &SurveyedPath, entries: &mut usize) -> Result<SurveyOf, Stop> {
    let len = c.length("length of a listing", MAX_LISTING)?;
    let listing = c.bytes(len)?;
    let digest = |_| {
        let mut digest = NO_DIGEST;
        digest.copy_from_slice(c.bytes(DIGEST_LEN)?);
        Ok((digest != NO_DIGEST).then_some(digest))
    };
    let digests = asked.names().map(digest).collect::<Result<_, Stop>>()?;
    // One that makes no NAR costs its own path only.
    let layout = match len {
        0 => None,
        _ => parse_listing(asked.path.clone(), listing).ok(),
    };
    let layout = layout.filter(|layout| layout.entries() <= *entries);
    *entries -= layout.as_ref().map_or(0, Layout::entries);
    Ok(SurveyOf { layout, digests })
}

fn whole(stop: Stop) -> WireError {
    match stop {
        Stop::NeedMore => WireError::new("survey", "all paths", "a cut one"),
        Stop::Error(error) => error,
    }
}
