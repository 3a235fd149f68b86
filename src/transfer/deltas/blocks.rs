//! Which blocks of a file are here, where it is not the same here and cannot come as a patch: the host lacks the version that is
//! here, or the files are too large for its memory.
//!
//! The host tells the SHA-256 of each block. It is compared with the file here at the same offset, and at the one that is as far
//! from the end: so all but few blocks are found where hashes have changed, and where something was inserted in one place.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::chosen_base::{ChosenBase, changed};
use super::matching::Matching;
use super::patching::Patching;
use crate::remote::FileOfPath;
use crate::wire::nar::layout::{FileRange, Layout, Piece};

/// How long blocks are at least and at most, in bytes. Both are powers of two.
const BLOCK_MIN: u64 = 256 << 10;
const BLOCK_MAX: u64 = 4 << 20;

/// For how many seconds of the line a block is. At the host it costs two processes, which take a tenth of that.
const BLOCK_SECS: f64 = 0.03;

/// How many blocks a file has at least, and at most.
const COUNT_MIN: u64 = 4;
const COUNT_MAX: u64 = 16_384;

/// How many bytes a second are read and hashed, here or at the host, on a machine of no great speed.
const HASHED_A_SEC: f64 = 200e6;

/// How much of the time that the line takes for a file may be spent on comparing it.
const SHARE_MAX: f64 = 0.5;

/// A file that is compared block by block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compared {
    /// All of it.
    pub(super) file: FileOfPath,
    /// The other version here.
    base_file: Vec<u8>,
    /// How long its blocks are in bytes, but for the last one.
    pub(super) block: u64,
}

/// A block that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// In which file here.
    pub(super) file: Arc<[u8]>,
    /// Its offset and length in that.
    pub(super) part: (u64, u64),
    /// As it is there with other hashes of store paths in it.
    pub(super) is_rewritten: bool,
    pub(super) digest: [u8; 32],
}

/// The files of a path that are compared block by block, if its bytes come at `rate` a second (0 where that is not known).
pub(super) fn to_compare(
    index: usize,
    layout: &Layout,
    base: &ChosenBase,
    same: &HashMap<Vec<u8>, [u8; 32]>,
    (patching, rate): (Option<Patching>, u64),
) -> Vec<Compared> {
    let (matching, mut at) = (Matching::new(&base.files), 0);
    let mut compare = |piece| {
        let range: FileRange = match piece {
            Piece::Framing(bytes) => {
                at += bytes.len() as u64;
                return None;
            }
            Piece::Contents(range) => range,
        };
        let nar_start = at;
        at += range.len;
        if same.contains_key(&range.path) {
            return None;
        }
        let block = block_len(range.size, rate)?;
        let (base_file, size) = base.files.entry(matching.find(&range.path, range.size)?)?;
        let is_patched = patching.is_some_and(|patching| patching.suits(range.size, size));
        (!is_patched && size >= block).then(|| Compared {
            base_file: base_file.to_vec(),
            block,
            file: FileOfPath {
                index,
                nar_start,
                range,
            },
        })
    };
    let pieces = layout.segment(0, u64::MAX).pieces();
    pieces.filter_map(&mut compare).collect()
}

/// How long the blocks of a file of `size` bytes are. `None` where comparing it would take too much of the time that it takes
/// to come.
fn block_len(size: u64, rate: u64) -> Option<u64> {
    let block = (rate as f64 * BLOCK_SECS) as u64;
    let block = block.max(size / COUNT_MAX).checked_next_power_of_two()?;
    let block = block.clamp(BLOCK_MIN, BLOCK_MAX);
    let count = size.div_ceil(block);
    let line_secs = size as f64 / rate as f64;
    let cost_secs = size as f64 / HASHED_A_SEC + count as f64 * BLOCK_SECS / 10.0;
    // Where the rate is not known, the line takes forever.
    let pays = cost_secs <= line_secs * SHARE_MAX;
    ((COUNT_MIN..=COUNT_MAX).contains(&count) && pays).then_some(block)
}

impl Compared {
    /// How many blocks it has.
    pub(super) fn count(&self) -> usize {
        usize::try_from(self.file.range.size.div_ceil(self.block)).unwrap_or(usize::MAX)
    }

    /// What of it is here, in order: lengths in bytes, and the block where it is here. Blocks without a digest are not.
    /// Blocks the thread.
    pub(super) fn find(
        &self,
        base: &ChosenBase,
        digests: &[Option<[u8; 32]>],
    ) -> Vec<(u64, Option<Block>)> {
        let (size, file) = (self.file.range.size, Arc::from(&*self.base_file));
        let base_size = base.files.size(&self.base_file).unwrap_or_default();
        let shift = i128::from(base_size) - i128::from(size);
        let mut shifts = [0, shift];
        let mut found: Vec<(u64, Option<Block>)> = Vec::new();
        let mut start = 0;
        for digest in digests {
            let len = self.block.min(size - start);
            let look = |shift: i128| {
                let (digest, from) = ((*digest)?, i128::from(start) + shift);
                let part = (u64::try_from(from).ok()?, len);
                let is_there = part.0 + len <= base_size;
                let is_rewritten = is_there.then(|| is_here(base, &file, part, digest))??;
                Some(Block {
                    file: file.clone(),
                    part,
                    is_rewritten,
                    digest,
                })
            };
            let mut block = look(shifts[0]);
            if block.is_none() && shift != 0 {
                // The one that was right comes first.
                block = look(shifts[1]).inspect(|_| shifts.swap(0, 1));
            }
            match (&block, found.last_mut()) {
                (None, Some((before, None))) => *before += len,
                _ => found.push((len, block)),
            }
            start += len;
        }
        found
    }
}

/// Whether that part of a file here has this digest: as it is (`false`), or with other hashes in it (`true`).
fn is_here(base: &ChosenBase, file: &[u8], part: (u64, u64), digest: [u8; 32]) -> Option<bool> {
    let is_it = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes)) == digest;
    let plain = base.part(file, part, false).ok()?;
    if is_it(&plain) {
        return Some(false);
    }
    base.rewrites.as_ref()?;
    let rewritten = base.part(file, part, true).ok()?;
    (rewritten != plain && is_it(&rewritten)).then_some(true)
}

impl Block {
    /// Its contents.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what it was when it was compared. Blocks the thread.
    pub(super) fn contents(&self, base: &ChosenBase) -> io::Result<Vec<u8>> {
        let bytes = base.part(&self.file, self.part, self.is_rewritten)?;
        match <[u8; 32]>::from(Sha256::digest(&bytes)) == self.digest {
            true => Ok(bytes),
            false => Err(changed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::base_files::BaseFiles;
    use super::super::rewrite::HashRewrites;
    use super::*;
    use crate::model::StorePath;
    use crate::model::samples::bare;
    use crate::pool::HostId;

    const BLOCK: usize = BLOCK_MIN as usize;

    fn path(digit: char) -> StorePath {
        let hash: String = std::iter::repeat_n(digit, 32).collect();
        StorePath::parse(&format!("/nix/store/{hash}-a")).unwrap()
    }

    fn base(folder: &Path) -> ChosenBase {
        let info = |digit| bare(path(digit));
        ChosenBase {
            host: HostId::at(0),
            path: path('1'),
            files: BaseFiles::list(folder).unwrap(),
            rewrites: HashRewrites::likely(&info('1'), &info('2')),
            at_host: false,
        }
    }

    fn layout(size: usize) -> Layout {
        use crate::wire::nar::layout::{Entry, EntryKind};
        let file = |path, size| Entry {
            path,
            kind: EntryKind::File {
                executable: false,
                size,
            },
        };
        let root = Entry {
            path: b"",
            kind: EntryKind::Directory,
        };
        let entries = vec![root, file(b"a", 9), file(b"f", size as u64)];
        Layout::new(path('2'), entries).unwrap()
    }

    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut number = seed;
        let mut next = || {
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (number >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// What of `new` is here where `old` is, in blocks: `.` as it is, `r` rewritten, a number of bytes for what is not.
    fn find(old: &[u8], new: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), old).unwrap();
        let base = base(folder.path());
        let compared = to_compare(0, &layout(new.len()), &base, &HashMap::new(), (None, 0));
        let [compared] = &compared[..] else {
            panic!("one file is compared: {compared:?}");
        };
        let digest = |block| Some(<[u8; 32]>::from(Sha256::digest(block)));
        let digests: Vec<_> = new.chunks(BLOCK).map(digest).collect();
        assert_eq!(compared.count(), digests.len());
        let found = compared.find(&base, &digests);
        let (mut text, mut at) = (String::new(), 0);
        for (len, block) in found {
            let len = usize::try_from(len).unwrap();
            match block {
                Some(block) => {
                    assert!(block.contents(&base).unwrap() == new[at..at + len]);
                    text += if block.is_rewritten { "r" } else { "." };
                }
                None => text += &format!("{len}"),
            }
            at += len;
        }
        assert_eq!(at, new.len());
        // Which may change.
        fs::write(folder.path().join("f"), bytes(9, old.len())).unwrap();
        for (_, block) in compared.find(&base, &digests) {
            assert!(block.is_none());
        }
        text
    }

    #[test]
    fn blocks_are_found_where_something_was_changed_or_inserted() {
        let old = bytes(1, 5 * BLOCK + 77);
        assert_eq!(find(&old, &old), "......");
        let mut new = old.clone();
        new[BLOCK] ^= 1;
        assert_eq!(find(&old, &new), format!(".{BLOCK}...."));
        let at = 2 * BLOCK + 5;
        let longer = [&old[..at], &[7; 1000], &old[at..]].concat();
        assert_eq!(find(&old, &longer), format!("..{BLOCK}..."));
        assert_eq!(find(&longer, &old), format!("..{BLOCK}..."));
        let other = bytes(2, 5 * BLOCK);
        assert_eq!(find(&old, &other), format!("{}", 5 * BLOCK));
    }

    #[test]
    fn blocks_are_found_with_other_hashes_in_them() {
        let mut old = bytes(1, 5 * BLOCK);
        let mut new = old.clone();
        // One where two blocks meet.
        for at in [100, 2 * BLOCK - 7, 4 * BLOCK] {
            old[at..at + 32].fill(b'1');
            new[at..at + 32].fill(b'2');
        }
        assert_eq!(find(&old, &new), "rrr.r");
        new.splice(9..9, [5; 3]);
        assert_eq!(find(&old, &new), format!("{BLOCK}rr.r."));
    }

    #[test]
    fn a_file_is_compared_where_that_costs_less_than_its_bytes() {
        let mib = 1 << 20;
        assert_eq!(block_len(mib, 0), Some(BLOCK_MIN));
        assert_eq!(block_len(mib - BLOCK_MIN, 0), None);
        assert_eq!(block_len(150 * mib, 2_500_000), Some(BLOCK_MIN));
        assert_eq!(block_len(150 * mib, 30_000_000), Some(1 << 20));
        assert_eq!(block_len(150 * mib, 59_000_000), Some(2 << 20));
        assert_eq!(block_len(150 * mib, 300_000_000), None);
        assert_eq!(block_len(40 << 30, 0), Some(BLOCK_MAX));
        assert_eq!(block_len(80 << 30, 0), None);
    }

    #[test]
    fn a_block_that_has_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        let old = bytes(1, 4 * BLOCK);
        fs::write(&file, &old).unwrap();
        let base = base(folder.path());
        let block = Block {
            file: Arc::from(&b"f"[..]),
            part: (5, 1000),
            is_rewritten: false,
            digest: Sha256::digest(&old[5..1005]).into(),
        };
        assert!(block.contents(&base).unwrap() == old[5..1005]);
        let mut other = old.clone();
        other[1004] ^= 1;
        for other in [&other[..], &old[1..]] {
            fs::write(&file, other).unwrap();
            assert!(block.contents(&base).is_err());
        }
        fs::remove_file(&file).unwrap();
        assert!(block.contents(&base).is_err());
    }
}
