//! Parts of a path's NAR: the framing from its layout, the contents from ranges of its files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags};

use super::directory::{self, Node, NodeError};
use super::layout::as_path;
use super::{LocalStore, LocalStoreError};
use crate::model::StorePath;
use crate::wire::nar::layout::{FileRange, Piece, Segment};
use crate::wire::printable;

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
    /// As [`LocalStore::path_files`] and [`PathFiles::read_segment`].
    pub fn read_segment(
        &self,
        segment: &Segment,
        contents_only: bool,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let mut files = self.path_files(segment.layout().path())?;
        files.read_segment(segment, contents_only, take)
    }

    /// The files of a path, to be read in parts.
    ///
    /// # Errors
    /// [`LocalStoreError::NotValid`] when it is not valid; when the database or the store's folder cannot be read.
    pub fn path_files(&self, path: &StorePath) -> Result<PathFiles, LocalStoreError> {
        self.check_valid(path)?;
        Ok(PathFiles {
            files: self.files.join(path.base_name()),
            store_dir: self.open_files()?,
            name: self.file_name(path)?,
            folder: None,
        })
    }

    /// The name of a path in the store's folder.
    pub(super) fn file_name(&self, path: &StorePath) -> Result<CString, LocalStoreError> {
        let files = || self.files.join(path.base_name());
        let nul = |_| NodeError::Limit("a name without NUL", "NUL".to_owned()).at(&files());
        CString::new(path.base_name()).map_err(nul)
    }
}

/// The files of one path, opened without ever following a symlink.
pub struct PathFiles {
    files: PathBuf,
    store_dir: OwnedFd,
    name: CString,
    /// The folder that was opened last, and where it is below the root: files of the same one follow each other.
    folder: Option<(Vec<u8>, OwnedFd)>,
}

impl PathFiles {
    /// Gives the bytes of a segment of the path's NAR to `take`, in pieces of at most 128 KiB: all of them, or only those
    /// that come from files.
    ///
    /// # Errors
    /// When a file vanished, has another length than in the layout, or cannot be read, and when `take` fails. What was
    /// given before is void then.
    pub fn read_segment(
        &mut self,
        segment: &Segment,
        contents_only: bool,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let mut buf = Vec::with_capacity(READ_SIZE);
        for piece in segment.pieces() {
            match piece {
                Piece::Framing(_) if contents_only => {}
                Piece::Framing(bytes) => take(&bytes).map_err(ReadError::Sink)?,
                Piece::Contents(range) => self.read_listed(&range, &mut buf, take)?,
            }
        }
        Ok(())
    }

    /// Gives so many bytes of a file from one offset on (`part`), or all that it has, to `take`, in pieces of at most
    /// 128 KiB. `path` is that of the file below the root, as anybody may name it.
    ///
    /// # Errors
    /// When that names no regular file of the path, it has no such part or cannot be read, and when `take` fails. What was
    /// given before is void then.
    pub fn read_file(
        &mut self,
        path: &[u8],
        part: Option<(u64, u64)>,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let here = self.files.join(as_path(path));
        let failed = |error: NodeError| error.at(&here);
        check_names(path).map_err(failed)?;
        let (file, size) = self.open(path).map_err(failed)?;
        let (offset, len) = part.unwrap_or((0, size));
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let got = format!("{len} bytes from {offset} on of {size}");
            return Err(failed(NodeError::Limit("a part of it", got)).into());
        }
        let range = FileRange {
            path: path.to_vec(),
            size,
            offset,
            len,
        };
        read(
            &file,
            &range,
            &here,
            &mut Vec::with_capacity(READ_SIZE),
            take,
        )
    }

    fn read_listed(
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
        read(&file, range, &here, buf, take)
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

/// Gives a part of an open file, which is at `here`, to `take`.
fn read(
    file: &OwnedFd,
    range: &FileRange,
    here: &Path,
    buf: &mut Vec<u8>,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ReadError> {
    let (mut offset, mut left) = (range.offset, range.len);
    while left > 0 {
        buf.clear();
        let read = rustix::io::retry_on_intr(|| {
            rustix::io::pread(file.as_fd(), spare_capacity(buf), offset)
        });
        match read.map_err(|errno| NodeError::Io("read", errno).at(here))? {
            0 => {
                return Err(ReadError::Store(LocalStoreError::Shrank {
                    path: here.to_owned(),
                    expected: range.size,
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

/// A name that comes from outside leads nowhere else.
fn check_names(path: &[u8]) -> Result<(), NodeError> {
    let leads_away = |name: &[u8]| matches!(name, b"" | b"." | b"..");
    if !path.is_empty() && path.split(|byte| *byte == b'/').any(leads_away) {
        let got = printable(path);
        return Err(NodeError::Limit("a path of a file below the root", got));
    }
    Ok(())
}

fn open_folder(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, NodeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| NodeError::Io("open", e))
}

fn c_string(name: &[u8]) -> Result<CString, NodeError> {
    CString::new(name).map_err(|_| NodeError::Limit("a name without NUL", "NUL".to_owned()))
}
