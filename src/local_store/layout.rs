//! The layout of a path's NAR, by walking over its files: nothing of their contents is read.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::directory::{self, Node, NodeError};
use super::{LocalStore, LocalStoreError};
use crate::model::StorePath;
use crate::wire::nar::MAX_DEPTH;
use crate::wire::nar::layout::{Entry, EntryKind, Layout};

/// What is walked over at most.
#[derive(Debug, Clone, Copy)]
pub struct LayoutLimits {
    /// File system objects.
    pub entries: usize,
    /// Bytes of their paths below the root, and of the targets of symlinks.
    pub text: usize,
}

impl LocalStore {
    /// The layout of the NAR of `path` as its files are now.
    ///
    /// # Errors
    /// [`LocalStoreError::NotValid`] when it is not valid; when a file vanished or is of a kind that a NAR cannot hold;
    /// when there is more than the `limits` allow; and when the NAR would not have its registered size, as that of a path
    /// which was kept with Nix's case hack.
    pub fn layout(
        &self,
        path: &StorePath,
        limits: LayoutLimits,
    ) -> Result<Layout, LocalStoreError> {
        let size = self.nar_size(path)?;
        let files = self.files.join(path.base_name());
        let mut walk = Walk {
            limits,
            text: 0,
            found: Vec::new(),
        };
        let store_dir = self.open_files()?;
        let name = self.file_name(path)?;
        walk.add(store_dir.as_fd(), &name, FileType::Unknown, (Vec::new(), 0))
            .map_err(|failure| failure.error.at(&files.join(as_path(&failure.at))))?;
        let entries = walk.found.iter().map(Found::entry).collect();
        let layout =
            Layout::new(path.clone(), entries).map_err(|error| LocalStoreError::Limit {
                path: files,
                expected: "what a NAR can hold",
                got: error.to_string(),
            })?;
        let got = layout.nar_size();
        if size != 0 && size != got {
            return Err(LocalStoreError::Size {
                path: path.clone(),
                expected: size,
                got,
            });
        }
        Ok(layout)
    }

    /// Whether `path` is valid.
    ///
    /// # Errors
    /// [`LocalStoreError::NotValid`] when it is not; when the database cannot be read.
    pub fn check_valid(&self, path: &StorePath) -> Result<(), LocalStoreError> {
        self.nar_size(path).map(drop)
    }

    /// Opens the folder that store paths lie in.
    pub(super) fn open_files(&self) -> Result<OwnedFd, LocalStoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &self.files, flags, Mode::empty())
            .map_err(|errno| NodeError::Io("open", errno).at(&self.files))
    }
}

/// A path below a root.
pub(super) fn as_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned()
}

/// One object, and where it is below the root.
struct Found {
    path: Vec<u8>,
    kind: Kind,
}

enum Kind {
    Directory,
    File { executable: bool, size: u64 },
    Symlink(Vec<u8>),
}

impl Found {
    fn entry(&self) -> Entry<'_> {
        let kind = match &self.kind {
            Kind::Directory => EntryKind::Directory,
            Kind::File { executable, size } => EntryKind::File {
                executable: *executable,
                size: *size,
            },
            Kind::Symlink(target) => EntryKind::Symlink(target),
        };
        Entry {
            path: &self.path,
            kind,
        }
    }
}

struct Walk {
    limits: LayoutLimits,
    text: usize,
    found: Vec<Found>,
}

/// What is wrong, and where below the root.
struct Failure {
    error: NodeError,
    at: Vec<u8>,
}

impl Walk {
    /// Adds `name` in `dir` and all below it. `place` is where that is below the root, and in how many directories.
    fn add(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        hint: FileType,
        (path, depth): (Vec<u8>, usize),
    ) -> Result<(), Failure> {
        let failed = |error| Failure {
            error,
            at: path.clone(),
        };
        if depth >= MAX_DEPTH {
            let expected = "at most 64 nodes within each other";
            return Err(failed(NodeError::Limit(expected, "one more".to_owned())));
        }
        let node = directory::open(dir, name, hint).map_err(failed)?;
        let (kind, inside) = match node {
            Node::File {
                executable, size, ..
            } => (Kind::File { executable, size }, None),
            Node::Symlink(target) => (Kind::Symlink(target), None),
            Node::Directory(inside) => (Kind::Directory, Some(inside)),
        };
        self.text += path.len();
        if let Kind::Symlink(target) = &kind {
            self.text += target.len();
        }
        let LayoutLimits { entries, text } = self.limits;
        if self.found.len() == entries || self.text > text {
            let got = format!("more than {entries} files or {text} bytes of their names");
            return Err(failed(NodeError::Limit("fewer files", got)));
        }
        self.found.push(Found {
            path: path.clone(),
            kind,
        });
        let Some(mut inside) = inside else {
            return Ok(());
        };
        while let Some((name, hint)) = inside.entry() {
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.to_bytes());
            self.add(inside.dir.as_fd(), name, hint, (below, depth + 1))?;
            inside.advance();
        }
        Ok(())
    }
}
