//! File system objects as a dump meets them: opened relative to their folder, never through a
//! symlink, and never anything that a NAR cannot hold.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::LocalStoreError;
use crate::wire::nar::{MAX_NAME, MAX_TARGET};

/// What Nix puts behind a name that differs from another one only in case (see `case_hack`).
const CASE_HACK_SUFFIX: &[u8] = b"~nix~case~hack~";

/// How much of a file's name stands in a NAR, in bytes, when the case hack is undone.
pub(super) fn unhacked_len(name: &[u8]) -> usize {
    let found = name
        .windows(CASE_HACK_SUFFIX.len())
        .position(|part| part == CASE_HACK_SUFFIX);
    found.unwrap_or(name.len())
}

/// An object that was found and opened.
pub(super) enum Node {
    File {
        file: OwnedFd,
        executable: bool,
        size: u64,
    },
    Symlink(Vec<u8>),
    Directory(OpenDirectory),
}

/// Why an object cannot be dumped. It knows no path: that is put together only when needed.
pub(super) enum NodeError {
    Io(&'static str, Errno),
    Limit(&'static str, String),
}

impl NodeError {
    pub(super) fn at(self, path: &Path) -> LocalStoreError {
        let path = path.to_owned();
        match self {
            Self::Io(action, errno) => LocalStoreError::Io {
                action,
                path,
                source: io::Error::from(errno),
            },
            Self::Limit(expected, got) => LocalStoreError::Limit {
                path,
                expected,
                got,
            },
        }
    }
}

/// An open directory with the sorted names of its entries, all in one piece of memory.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    pub(super) dir: OwnedFd,
    /// Each name with a NUL behind it.
    names: Vec<u8>,
    entries: Vec<Entry>,
    next: usize,
}

#[derive(Debug)]
struct Entry {
    /// Where its name is.
    start: usize,
    /// Length of its name, without the NUL.
    len: usize,
    /// How much of its name it has in a NAR.
    nar_len: usize,
    kind: FileType,
}

impl Entry {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.start..self.start + self.len]
    }

    fn nar_name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.start..self.start + self.nar_len]
    }
}

impl OpenDirectory {
    fn read(dir: OwnedFd) -> Result<Self, NodeError> {
        let mut listing = Dir::read_from(&dir).map_err(|e| NodeError::Io("list", e))?;
        let (mut names, mut entries) = (Vec::new(), Vec::new());
        while let Some(entry) = listing.read() {
            let entry = entry.map_err(|e| NodeError::Io("list", e))?;
            let name = entry.file_name().to_bytes_with_nul();
            if name == b".\0" || name == b"..\0" {
                continue;
            }
            let len = name.len() - 1;
            if len > MAX_NAME {
                let got = format!("one of {len} bytes in it");
                return Err(NodeError::Limit("names of at most 255 bytes", got));
            }
            entries.push(Entry {
                start: names.len(),
                len,
                nar_len: len,
                kind: entry.file_type(),
            });
            names.extend_from_slice(name);
        }
        entries.sort_unstable_by(|a, b| a.name(&names).cmp(b.name(&names)));
        // A listing of a directory that changes meanwhile may hold a name twice.
        entries.dedup_by(|a, b| a.name(&names) == b.name(&names));
        Ok(Self {
            dir,
            names,
            entries,
            next: 0,
        })
    }

    /// The entry that is due, and its kind by the listing.
    pub(super) fn entry(&self) -> Option<(&CStr, FileType)> {
        let Entry {
            start, len, kind, ..
        } = *self.entries.get(self.next)?;
        let name = CStr::from_bytes_with_nul(&self.names[start..=start + len]).ok()?;
        Some((name, kind))
    }

    /// The name of the entry that is due, as a NAR has it.
    pub(super) fn nar_name(&self) -> &[u8] {
        let entry = self.entries.get(self.next);
        entry.map_or(b"", |entry| entry.nar_name(&self.names))
    }

    /// Whether a name in it looks like one that Nix made for the sake of a file system without case.
    pub(super) fn has_case_hack(&self) -> bool {
        let mut names = self.entries.iter().map(|entry| entry.name(&self.names));
        names.any(|name| unhacked_len(name) < name.len())
    }

    /// Gives the entries the names that they had before, and orders them by these. False, and nothing is
    /// changed, when one would have no name or two the same.
    pub(super) fn undo_case_hack(&mut self) -> bool {
        let names = &self.names;
        for entry in &mut self.entries {
            entry.nar_len = unhacked_len(entry.name(names));
        }
        self.entries
            .sort_unstable_by(|a, b| a.nar_name(names).cmp(b.nar_name(names)));
        let mut pairs = self.entries.windows(2);
        let are_names = self.entries.first().is_none_or(|first| first.nar_len > 0)
            && pairs.all(|pair| pair[0].nar_name(names) != pair[1].nar_name(names));
        if !are_names {
            self.entries
                .iter_mut()
                .for_each(|entry| entry.nar_len = entry.len);
            self.entries
                .sort_unstable_by(|a, b| a.name(names).cmp(b.name(names)));
        }
        are_names
    }

    /// The name of the entry that is due, for messages.
    pub(super) fn entry_name(&self) -> Option<&OsStr> {
        self.entry()
            .map(|(name, _)| OsStr::from_bytes(name.to_bytes()))
    }

    pub(super) fn advance(&mut self) {
        self.next += 1;
    }
}

/// Opens what `name` is in `dir`; `hint` saves a system call where the listing has the kind.
pub(super) fn open(dir: BorrowedFd<'_>, name: &CStr, hint: FileType) -> Result<Node, NodeError> {
    let kind = match hint {
        FileType::Unknown => {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| NodeError::Io("look at", e))?;
            FileType::from_raw_mode(stat.st_mode)
        }
        known => known,
    };
    match kind {
        FileType::RegularFile => open_file(dir, name),
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(dir, name, flags, Mode::empty())
                .map_err(|e| NodeError::Io("open", e))?;
            OpenDirectory::read(dir).map(Node::Directory)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::with_capacity(256))
                .map_err(|e| NodeError::Io("read the target of", e))?
                .into_bytes();
            if target.is_empty() || target.len() > MAX_TARGET {
                let got = format!("{} bytes", target.len());
                return Err(NodeError::Limit("a target of 1 to 4095 bytes", got));
            }
            Ok(Node::Symlink(target))
        }
        other => Err(no_such_node(other)),
    }
}

fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<Node, NodeError> {
    // Should it have become a fifo or a terminal since it was listed, opening it must not hang.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| NodeError::Io("open", e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| NodeError::Io("look at", e))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(no_such_node(kind));
    }
    Ok(Node::File {
        file,
        executable: stat.st_mode & 0o100 != 0,
        size: u64::try_from(stat.st_size).unwrap_or(0),
    })
}

fn no_such_node(kind: FileType) -> NodeError {
    let got = match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symlink",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something unknown",
    };
    NodeError::Limit("a regular file, symlink or directory", got.to_owned())
}
