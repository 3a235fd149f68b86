//! The version here that one path comes as differences from.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Base;
use super::base_files::BaseFiles;
use super::rewrite::HashRewrites;
use crate::model::{PathInfo, StorePath};
use crate::pool::HostId;

/// The length of a hash in a store path, in bytes.
const HASH_LEN: u64 = 32;

/// A path, and the version here that it comes from.
pub(in crate::transfer) type Wanted = (Arc<PathInfo>, Arc<ChosenBase>);

/// A version here, for one path on one host.
#[derive(Debug)]
pub(in crate::transfer) struct ChosenBase {
    pub(in crate::transfer) host: HostId,
    pub(super) path: StorePath,
    pub(super) files: BaseFiles,
    /// Hashes that its files are likely to have others in place of.
    pub(super) rewrites: Option<HashRewrites>,
    /// The host has the very same.
    pub(super) at_host: bool,
}

impl ChosenBase {
    /// How many files it has.
    pub(in crate::transfer) fn file_count(&self) -> usize {
        self.files.iter().count()
    }

    /// Whether a file here has this digest, as it is or with other hashes of store paths in it. Blocks.
    pub(super) fn has(&self, path: &[u8], digest: [u8; 32]) -> bool {
        let is_it = |ours: io::Result<[u8; 32]>| ours.is_ok_and(|ours| ours == digest);
        let rewrites = self.rewrites.as_ref();
        is_it(self.files.digest(path))
            || rewrites.is_some_and(|rewrites| is_it(self.files.digest_with(path, rewrites)))
    }

    /// The contents that a file here has with this digest, as they are or with other hashes of store paths in them. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or neither has this digest.
    pub(super) fn contents(&self, path: &[u8], digest: [u8; 32]) -> io::Result<Vec<u8>> {
        let mut contents = self.files.contents(path)?;
        let is_it = |contents: &[u8]| <[u8; 32]>::from(Sha256::digest(contents)) == digest;
        if is_it(&contents) {
            return Ok(contents);
        }
        if let Some(rewrites) = &self.rewrites {
            rewrites.apply(&mut contents);
        }
        match is_it(&contents) {
            true => Ok(contents),
            false => Err(changed()),
        }
    }

    /// `len` bytes of a file here from offset `start` on, as they are or with other hashes of store paths in them. Blocks.
    ///
    /// # Errors
    /// When they cannot be read, or the file has another size by now.
    pub(super) fn part(
        &self,
        path: &[u8],
        (start, len): (u64, u64),
        is_rewritten: bool,
    ) -> io::Result<Vec<u8>> {
        let rewrites = self.rewrites.as_ref().filter(|_| is_rewritten);
        let Some(rewrites) = rewrites else {
            return self.files.part(path, (start, len));
        };
        // One may begin before them, or end behind them.
        let from = start.saturating_sub(HASH_LEN);
        let size = self.files.size(path).unwrap_or_default();
        let end = size.min(start.saturating_add(len).saturating_add(HASH_LEN));
        let mut part = self.files.part(path, (from, end.saturating_sub(from)))?;
        rewrites.apply(&mut part);
        // Both lie in what was read.
        let skip = usize::try_from(start - from).unwrap_or(usize::MAX);
        part.drain(..skip.min(part.len()));
        part.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(part)
    }
}

/// A file here that is not what it was when it was compared.
pub(super) fn changed() -> io::Error {
    io::Error::other("it has changed")
}

/// The first version that the host has too; else the most similar one that is here. Blocks.
pub(super) fn choose(
    host: HostId,
    wanted: &PathInfo,
    bases: Vec<Base>,
    at_host: &HashMap<StorePath, PathInfo>,
) -> Option<ChosenBase> {
    let is_there = |base: &Base| match at_host.get(&base.path) {
        Some(theirs) => base
            .nar_hash()
            .is_none_or(|ours| theirs.nar_hash == Some(ours)),
        None => false,
    };
    let at = bases.iter().position(is_there);
    let base = bases.into_iter().nth(at.unwrap_or(0))?;
    let files = BaseFiles::list(&base.files);
    let files = files.inspect_err(|error| log::debug!("{}: {error}", base.files.display()));
    let info = base.info.as_ref().or_else(|| at_host.get(&base.path));
    Some(ChosenBase {
        host,
        files: files.ok()?,
        rewrites: info.and_then(|old| HashRewrites::likely(old, wanted)),
        path: base.path,
        at_host: at.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NarHash;

    fn path(digit: char) -> StorePath {
        let hash: String = std::iter::repeat_n(digit, 32).collect();
        StorePath::parse(&format!("/nix/store/{hash}-a")).unwrap()
    }

    #[test]
    fn a_version_that_the_host_has_too_comes_before_a_more_similar_one() {
        let folder = tempfile::tempdir().unwrap();
        let info = |digit, byte| PathInfo {
            path: path(digit),
            deriver: None,
            references: Vec::new(),
            download_size: 0,
            nar_size: 0,
            nar_hash: Some(NarHash::new([byte; 32])),
            ca: None,
            sigs: Vec::new(),
        };
        let base = |digit, byte| Base {
            path: path(digit),
            files: folder.path().to_owned(),
            info: Some(info(digit, byte)),
        };
        let bases = || vec![base('1', 1), base('2', 2), base('3', 3)];
        let chosen = |at_host: &[(char, u8)]| {
            let at_host = at_host.iter();
            let at_host = at_host.map(|(digit, byte)| (path(*digit), info(*digit, *byte)));
            let wanted = info('9', 9);
            let chosen = choose(HostId::at(0), &wanted, bases(), &at_host.collect()).unwrap();
            (chosen.path, chosen.at_host)
        };
        assert_eq!(chosen(&[]), (path('1'), false));
        assert_eq!(chosen(&[('3', 3)]), (path('3'), true));
        assert_eq!(chosen(&[('1', 9), ('2', 2)]), (path('2'), true));
    }
}
