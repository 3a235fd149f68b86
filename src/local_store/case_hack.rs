//! Nix's case hack, undone.
//!
//! Where file names that differ only in case cannot stand side by side (macOS; `use-case-hack`), Nix keeps
//! all but the first of them as `NAME~nix~case~hack~N`, and leaves that out again when it makes a NAR (Nix,
//! `libutil/archive.cc`). The database does not say whether a store is kept so, and elsewhere a file may
//! really have such a name. But the two NARs never have the same size: what is left out, at least 16 bytes of
//! a name, is more than padding can hide. So it is left out where only that gives the recorded size.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::directory::{self, Node, NodeError, OpenDirectory, unhacked_len};
use crate::wire::nar::{
    MAX_DEPTH, directory_end, directory_start, entry_end, entry_start, file_end, file_start, magic,
    symlink,
};

/// Whether only a NAR of `name` in `dir` without the hack has this size.
pub(super) fn is_size_without_hack(
    dir: BorrowedFd<'_>,
    name: &CStr,
    size: u64,
) -> Result<bool, NodeError> {
    let root = directory::open(dir, name, rustix::fs::FileType::Unknown)?;
    let mut start = Vec::new();
    magic(&mut start);
    let mut sizes = Sizes::of(&start);
    sizes.add(Sizes::of_node(root, 0)?);
    Ok(sizes.as_named != size && sizes.unhacked == Some(size))
}

/// Sizes of a part of a NAR, in bytes: with file names as they are, and without the hack.
#[derive(Clone, Copy)]
struct Sizes {
    as_named: u64,
    /// `None` when two files would have the same name, or one would have none.
    unhacked: Option<u64>,
}

impl Sizes {
    fn same(len: u64) -> Self {
        Self {
            as_named: len,
            unhacked: Some(len),
        }
    }

    fn of(part: &[u8]) -> Self {
        Self::same(part.len() as u64)
    }

    fn add(&mut self, other: Self) {
        self.as_named = self.as_named.saturating_add(other.as_named);
        let both = self.unhacked.zip(other.unhacked);
        self.unhacked = both.map(|(one, other)| one.saturating_add(other));
    }

    /// Of a node that stands in `depth` others.
    fn of_node(node: Node, depth: usize) -> Result<Self, NodeError> {
        let mut part = Vec::new();
        let inside = match node {
            Node::File {
                executable, size, ..
            } => {
                file_start(&mut part, executable, size);
                file_end(&mut part, size);
                Self::same(size)
            }
            Node::Symlink(target) => {
                symlink(&mut part, &target);
                Self::same(0)
            }
            Node::Directory(dir) => {
                directory_start(&mut part);
                directory_end(&mut part);
                Self::of_entries(dir, depth + 1)?
            }
        };
        let mut sizes = Self::of(&part);
        sizes.add(inside);
        Ok(sizes)
    }

    /// Of all that is in a directory, each in `depth` nodes.
    fn of_entries(mut dir: OpenDirectory, depth: usize) -> Result<Self, NodeError> {
        let mut sizes = Self::same(0);
        let mut part = Vec::new();
        while let Some((name, kind)) = dir.entry() {
            if depth >= MAX_DEPTH {
                let expected = "at most 64 nodes within each other";
                return Err(NodeError::Limit(expected, "one more".to_owned()));
            }
            let mut len = |name: &[u8]| {
                part.clear();
                entry_start(&mut part, name);
                entry_end(&mut part);
                part.len() as u64
            };
            let bytes = name.to_bytes();
            sizes.add(Self {
                as_named: len(bytes),
                unhacked: Some(len(&bytes[..unhacked_len(bytes)])),
            });
            let node = directory::open(dir.dir.as_fd(), name, kind)?;
            sizes.add(Self::of_node(node, depth)?);
            dir.advance();
        }
        if dir.has_case_hack() && !dir.undo_case_hack() {
            sizes.unhacked = None;
        }
        Ok(sizes)
    }
}
