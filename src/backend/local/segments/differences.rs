//! What a client makes paths of that it has other versions of: what there is of them, parts of files against parts of other
//! ones, and what has no counterpart.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::body::{Body, Wanted};
use super::{LocalSegments, Refusal, segment};
use crate::local_store::PathFiles;
use crate::model::StorePath;
use crate::wire::serve::extension::{
    FilePart, MAX_DELTA, MAX_LISTING, MAX_PARTS_LEN, NO_DIGEST, NarPart, NarRange, SurveyedPath,
    put_survey_head,
};

/// After so many bytes were hashed, the caller gets what there is, and sees that it goes on.
const HASHED_BEFORE_FLUSH: u64 = 64 << 20;

impl LocalSegments {
    pub(super) fn delta(
        &self,
        part: &NarRange,
        base: &FilePart,
        level: u8,
        body: &mut Body,
    ) -> Result<(), Refusal> {
        for len in [part.len, base.len] {
            if len > MAX_DELTA {
                let reason = format!("expected at most {MAX_DELTA} bytes, got {len}");
                return Err(Refusal::unfit(reason));
            }
        }
        let part = segment(&self.layout(&part.path)?, part.start, part.len)?;
        let mut files = self.store.path_files(&base.path)?;
        let (mut prefix, wanted) = (Vec::new(), body.wanted());
        // Or it would take twice as much while it grows.
        prefix.reserve_exact(usize::try_from(base.len).unwrap_or_default());
        let mut take = |bytes: &[u8]| {
            prefix.extend_from_slice(bytes);
            wanted.check()
        };
        files.read_file(&base.name, Some((base.start, base.len)), &mut take)?;
        body.fill_against(&prefix, level, part.len(), |out| {
            let mut take = |bytes: &[u8]| out.write_all(bytes);
            Ok(self.store.read_segment(&part, false, &mut take)?)
        })
    }

    pub(super) fn survey(
        &self,
        paths: &[SurveyedPath],
        level: u8,
        body: &mut Body,
    ) -> Result<(), Refusal> {
        let (mut left, mut hashed, wanted) = (MAX_LISTING, 0, body.wanted());
        body.fill(level, None, |out| {
            for surveyed in paths {
                // One that is not there costs no other one.
                let mut listing = self.listing(&surveyed.path).unwrap_or_else(|refusal| {
                    log::debug!("{} is not listed: {}", surveyed.path, refusal.reason);
                    Vec::new()
                });
                if listing.len() > left {
                    listing.clear();
                }
                left -= listing.len();
                let mut head = Vec::new();
                put_survey_head(&mut head, listing.len());
                out.write_all(&head)?;
                out.write_all(&listing)?;
                self.hash_files(surveyed, (&mut hashed, &wanted), out)?;
            }
            Ok(())
        })
    }

    fn hash_files(
        &self,
        surveyed: &SurveyedPath,
        (hashed, wanted): (&mut u64, &Wanted),
        out: &mut dyn Write,
    ) -> Result<(), Refusal> {
        if surveyed.names.is_empty() {
            return Ok(());
        }
        let mut files = self.store.path_files(&surveyed.path).ok();
        for name in surveyed.names() {
            let digest = files
                .as_mut()
                .and_then(|files| hash(files, name, hashed, wanted));
            // Or everything of a path counts as gone.
            wanted.check()?;
            out.write_all(&digest.unwrap_or(NO_DIGEST))?;
            if *hashed >= HASHED_BEFORE_FLUSH {
                *hashed = 0;
                out.flush()?;
            }
        }
        Ok(())
    }

    pub(super) fn parts(
        &self,
        paths: &[StorePath],
        parts: &[NarPart],
        level: u8,
        body: &mut Body,
    ) -> Result<(), Refusal> {
        let len = parts
            .iter()
            .fold(0_u64, |len, part| len.saturating_add(part.len));
        if len > MAX_PARTS_LEN {
            let reason = format!("expected at most {MAX_PARTS_LEN} bytes, got {len}");
            return Err(Refusal::unfit(reason));
        }
        body.fill(level, Some(len), |out| {
            // Those of one path follow each other.
            for of_path in parts.chunk_by(|a, b| a.index == b.index) {
                let path = of_path.first().and_then(|part| paths.get(part.index));
                let Some(path) = path else { continue };
                let layout = self.layout(path)?;
                let mut files = self.store.path_files(path)?;
                for part in of_path {
                    let segment = segment(&layout, part.start, part.len)?;
                    let mut take = |bytes: &[u8]| out.write_all(bytes);
                    files.read_segment(&segment, false, &mut take)?;
                }
            }
            Ok(())
        })
    }
}

/// The SHA-256 of a file; `None` where it is none, or cannot be read.
fn hash(files: &mut PathFiles, name: &[u8], hashed: &mut u64, wanted: &Wanted) -> Option<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut take = |bytes: &[u8]| -> io::Result<()> {
        hasher.update(bytes);
        *hashed += bytes.len() as u64;
        wanted.check()
    };
    files.read_file(name, None, &mut take).ok()?;
    Some(hasher.finalize().into())
}
