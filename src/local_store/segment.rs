//! Parts of a path's NAR: the framing from its layout, the contents from ranges of its files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags};

use super::directory::{self, Node, NodeError};
use super::layout::as_path;
use super::{LocalStore, LocalStoreError};
use crate::model::StorePath;
use crate::wire::nar::layout::{FileRange, Piece, Segment};

/// How much of a file is read at once, in bytes.
const READ_SIZE: usize = 128 << 10;

/// Why a part did not come whole.
#[derive(Debug)]
pub enum ReadError {
    /// The store's side.
    Store(LocalStoreError),
    /// Whoever took the bytes.
    Sink(io::Error),
}

impl From<LocalStoreError> for ReadError {
    fn from(error: LocalStoreError) -> Self {
        Self::Store(error)
    }
}

impl LocalStore {
    /// Gives the bytes of a segment to `take`, in pieces of at most 128 KiB: all of them, or only those that come from files.
    ///
    /// # Errors
    /// When its path is not valid any more, when a file vanished, has another length than in the layout, or cannot be read,
    /// and when `take` fails. What was given before is void then.
    pub fn read_segment(
        &self,
        segment: &Segment,
        contents_only: bool,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let path = segment.layout().path();
        self.check_valid(path)?;
        let mut files = Files {
            files: self.files.join(path.base_name()),
            store_dir: self.open_files()?,
            name: self.file_name(path)?,
            folder: None,
        };
        let mut buf = Vec::with_capacity(READ_SIZE);
        for piece in segment.pieces() {
            match piece {
                Piece::Framing(_) if contents_only => {}
                Piece::Framing(bytes) => take(&bytes).map_err(ReadError::Sink)?,
                Piece::Contents(range) => files.read(&range, &mut buf, take)?,
            }
        }
        Ok(())
    }

    /// The name of a path in the store's folder.
    pub(super) fn file_name(&self, path: &StorePath) -> Result<CString, LocalStoreError> {
        let files = || self.files.join(path.base_name());
        let nul = |_| NodeError::Limit("a name without NUL", "NUL".to_owned()).at(&files());
        CString::new(path.base_name()).map_err(nul)
    }
}

/// The files of one path, opened without ever following a symlink.
struct Files {
    files: PathBuf,
    store_dir: OwnedFd,
    name: CString,
    /// The folder that was opened last, and where it is below the root: files of the same one follow each other.
    folder: Option<(Vec<u8>, OwnedFd)>,
}

impl Files {
    fn read(
        &mut self,
        range: &FileRange,
        buf: &mut Vec<u8>,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let here = self.files.join(as_path(&range.path));
        let failed = |error: NodeError| error.at(&here);
        let (file, size) = self.open(&range.path).map_err(failed)?;
        if size != range.size {
            let got = format!("{size}");
            let expected = "the length that it was listed with";
            return Err(failed(NodeError::Limit(expected, got)).into());
        }
        let (mut offset, mut left) = (range.offset, range.len);
        while left > 0 {
            buf.clear();
            let read = rustix::io::retry_on_intr(|| {
                rustix::io::pread(file.as_fd(), spare_capacity(buf), offset)
            });
            match read.map_err(|errno| failed(NodeError::Io("read", errno)))? {
                0 => {
                    return Err(ReadError::Store(LocalStoreError::Shrank {
                        path: here,
                        expected: size,
                        got: offset,
                    }));
                }
                len => {
                    let len = usize::try_from(left).map_or(len, |left| left.min(len));
                    take(&buf[..len]).map_err(ReadError::Sink)?;
                    offset += len as u64;
                    left -= len as u64;
                }
            }
        }
        Ok(())
    }

    /// The file at a path below the root, and its length.
    fn open(&mut self, path: &[u8]) -> Result<(OwnedFd, u64), NodeError> {
        let opened = if path.is_empty() {
            directory::open(self.store_dir.as_fd(), &self.name, FileType::RegularFile)?
        } else {
            let slash = path.iter().rposition(|b| *b == b'/');
            let (folder, name) = match slash {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&b""[..], path),
            };
            let folder = self.folder(folder)?;
            directory::open(folder.as_fd(), &c_string(name)?, FileType::RegularFile)?
        };
        match opened {
            Node::File { file, size, .. } => Ok((file, size)),
            _ => Err(NodeError::Limit(
                "a regular file",
                "something else".to_owned(),
            )),
        }
    }

    /// A folder below the root, name by name.
    fn folder(&mut self, path: &[u8]) -> Result<&OwnedFd, NodeError> {
        let is_open = matches!(&self.folder, Some((open, _)) if open == path);
        if !is_open {
            let mut folder = open_folder(&self.store_dir, &self.name)?;
            for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
                folder = open_folder(&folder, &c_string(name)?)?;
            }
            self.folder = Some((path.to_owned(), folder));
        }
        match &self.folder {
            Some((_, folder)) => Ok(folder),
            None => Err(NodeError::Io("open", rustix::io::Errno::NOENT)),
        }
    }
}

fn open_folder(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, NodeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| NodeError::Io("open", e))
}

fn c_string(name: &[u8]) -> Result<CString, NodeError> {
    CString::new(name).map_err(|_| NodeError::Limit("a name without NUL", "NUL".to_owned()))
}
