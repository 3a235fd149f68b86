//! What our program answers of paths that others are made of: surveys, deltas, parts of several NARs.

use std::io::Write;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use ssh_substituter::model::StorePath;
use ssh_substituter::wire::serve::extension::{
    FilePart, NO_DIGEST, NarPart, NarRange, Status, SurveyedPath, put_entry, put_survey_head,
};

use super::host::Far;
use super::link::Gone;
use super::nars::Kind;
use super::parts::{body, end, entries};
use super::store::Copy;

/// What there is of these paths.
pub async fn survey(far: &mut Far, paths: &[SurveyedPath], level: u8) -> Result<(), Gone> {
    let host = far.host.clone();
    let mut survey = Vec::new();
    for surveyed in paths {
        let copy = host.store.get(&surveyed.path);
        let mut listing = Vec::new();
        for entry in copy.map(|copy| entries(&copy.item)).unwrap_or_default() {
            put_entry(&mut listing, &entry);
        }
        put_survey_head(&mut survey, listing.len());
        survey.extend_from_slice(&listing);
        for name in surveyed.names() {
            let contents = copy.and_then(|copy| file(copy, name));
            let digest = contents.map_or(NO_DIGEST, |contents| Sha256::digest(contents).into());
            survey.extend_from_slice(&digest);
        }
    }
    body(far, survey.into(), level, false).await?;
    end(far, Status::Done, "").await
}

/// A part of a NAR against a part of a file.
pub async fn delta(far: &mut Far, part: &NarRange, base: &FilePart, level: u8) -> Result<(), Gone> {
    let host = far.host.clone();
    let (Some(copy), Some(other)) = (host.store.get(&part.path), host.store.get(&base.path)) else {
        return end(far, Status::Absent, "it is not valid").await;
    };
    let prefix = file(other, &base.name).unwrap_or_default();
    let is_in =
        |start: u64, len: u64, size: u64| start.checked_add(len).is_some_and(|end| end <= size);
    if !is_in(part.start, part.len, copy.item.size())
        || !is_in(base.start, base.len, prefix.len() as u64)
    {
        return end(far, Status::Unfit, "it is shorter").await;
    }
    let prefix = prefix.slice(base.start as usize..(base.start + base.len) as usize);
    let new = copy.bytes(part.start, part.len);
    let mut encoder =
        zstd::Encoder::with_ref_prefix(Vec::new(), i32::from(level), &prefix).expect("an encoder");
    encoder.include_checksum(true).expect("a checksum");
    encoder.write_all(&new).expect("it compresses");
    let frame = encoder.finish().expect("it compresses");
    body(far, frame.into(), 0, true).await?;
    end(far, Status::Done, "").await
}

/// Parts of several NARs as one.
pub async fn parts(
    far: &mut Far,
    paths: &[StorePath],
    parts: &[NarPart],
    level: u8,
) -> Result<(), Gone> {
    let host = far.host.clone();
    let mut all = Vec::new();
    for part in parts {
        let Some(copy) = host.store.get(&paths[part.index]) else {
            return end(far, Status::Absent, "it is not valid").await;
        };
        all.extend_from_slice(&copy.bytes(part.start, part.len));
    }
    body(far, all.into(), level, true).await?;
    end(far, Status::Done, "").await
}

/// The contents of a file as they are at the host.
fn file(copy: &Copy, name: &[u8]) -> Option<Bytes> {
    let node = copy
        .item
        .nodes
        .iter()
        .find(|node| node.path.as_bytes() == name)?;
    match node.kind {
        Kind::File { at, size, .. } => Some(copy.bytes(at, size)),
        _ => None,
    }
}
