//! Dumping a store path as a NAR, in chunks, with constant memory.
//!
//! A dump steps over whole units of the grammar and keeps the stack of what is open, so that one
//! that fails in the middle can still be completed in step (see [`Completion`]).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::case_hack;
use super::directory::{self, Node, NodeError, OpenDirectory};
use super::{LocalStore, LocalStoreError};
use crate::model::StorePath;
use crate::wire::nar::{
    Completion, MAX_DEPTH, directory_end, directory_start, entry_end, entry_start, failing_nar,
    file_end, file_start, magic, symlink,
};

/// How many bytes a chunk has at most, as long as the caller's buffer is no larger: what a pipe
/// holds on Linux. Larger chunks were slower through a pipe, and no faster elsewhere.
pub const CHUNK: usize = 64 * 1024;

/// More than any unit takes, contents apart: a name of 255 bytes, a target of 4,095, the tags.
const MAX_UNIT: usize = 8 * 1024;

/// The dump of one store path, to be pulled chunk by chunk.
///
/// No lock keeps the path from being collected meanwhile. Whatever then goes wrong is an error in
/// the middle; a caller who has passed on bytes that cannot be taken back completes them with
/// [`Dump::complete_after_error`]. The end is withheld when the size is not the registered one:
/// so a directory that was emptied while it was listed isn't taken for the whole.
#[derive(Debug)]
pub struct Dump {
    path: StorePath,
    /// Where the files of `path` really are.
    files: PathBuf,
    store_dir: OwnedFd,
    state: DumpState,
    open: Vec<OpenDirectory>,
    /// Bytes of the chunks that were given out.
    given: u64,
    /// The registered size of the NAR; 0 when unknown.
    size: u64,
    /// Whether Nix's case hack is to be undone; unknown before a name looks like it.
    case_hack: Option<bool>,
    /// An error that waits for the bytes before it to be given out.
    failed: Option<LocalStoreError>,
}

/// Where in the grammar the dump stands, as in the decoder of NARs.
#[derive(Debug)]
enum DumpState {
    Start,
    /// Between two entries of the innermost open directory.
    Directory,
    Contents {
        file: OwnedFd,
        size: u64,
        left: u64,
    },
    Done,
}

impl Dump {
    /// Begins the dump of `path`.
    ///
    /// # Errors
    /// [`LocalStoreError::NotValid`] when it is not valid; when the database or the store's
    /// directory cannot be read. Errors in `path`'s own files come with the first chunk.
    pub fn open(store: &LocalStore, path: &StorePath) -> Result<Self, LocalStoreError> {
        Self::of_files(&store.files, path, store.nar_size(path)?)
    }

    /// Begins the dump of `path` from the folder that store paths lie in, whether it is valid there
    /// or not. `size` is what the NAR shall have, 0 when that is unknown.
    ///
    /// # Errors
    /// When the folder cannot be read. Errors in `path`'s own files come with the first chunk.
    pub fn of_files(folder: &Path, path: &StorePath, size: u64) -> Result<Self, LocalStoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let store_dir = rustix::fs::openat(CWD, folder, flags, Mode::empty())
            .map_err(|errno| NodeError::Io("open", errno).at(folder))?;
        Ok(Self {
            files: folder.join(path.base_name()),
            path: path.clone(),
            store_dir,
            state: DumpState::Start,
            open: Vec::new(),
            given: 0,
            size,
            case_hack: None,
            failed: None,
        })
    }

    /// The size of the whole NAR as it is registered; 0 when unknown.
    #[must_use]
    pub fn nar_size(&self) -> u64 {
        self.size
    }

    /// Bytes given out so far.
    #[must_use]
    pub fn bytes_given(&self) -> u64 {
        self.given
    }

    /// Replaces what is in `buf` by the next chunk; false, and an empty `buf`, after the last.
    /// Give the same buffer again: it is then never allocated anew.
    ///
    /// # Errors
    /// When a file vanished, shrank, cannot be read or is of a kind or size that a NAR cannot
    /// hold, and when the NAR would not have its registered size. All bytes before that have been
    /// given out then, and `buf` is empty.
    pub fn next_chunk(&mut self, buf: &mut Vec<u8>) -> Result<bool, LocalStoreError> {
        buf.clear();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        buf.reserve(CHUNK);
        while buf.len() < CHUNK - MAX_UNIT && !matches!(self.state, DumpState::Done) {
            let before = buf.len();
            let Err(error) = self.step(buf) else {
                continue;
            };
            buf.truncate(before);
            if buf.is_empty() {
                return Err(error);
            }
            self.failed = Some(error);
            break;
        }
        self.given += buf.len() as u64;
        Ok(!buf.is_empty())
    }

    /// What completes the NAR behind the chunks that were given out: where nothing was, an archive that
    /// has the `reason` in it ([`failing_nar`]). Nothing when it is complete. The dump is over after this.
    pub fn complete_after_error(&mut self, reason: &str) -> Completion {
        let mut done = Completion::default();
        let mut open = self.open.len();
        match std::mem::replace(&mut self.state, DumpState::Done) {
            DumpState::Start => done.head = failing_nar(reason),
            DumpState::Done => open = 0,
            DumpState::Contents { size, left, .. } => {
                done.fill = left;
                file_end(&mut done.tail, size);
            }
            DumpState::Directory => {
                directory_end(&mut done.tail);
                open -= 1;
            }
        }
        done.close_directories(open);
        self.open.clear();
        self.failed = None;
        done
    }

    /// One unit, or a piece of contents. After an error the state is as before, and what was
    /// appended to `buf` is void.
    fn step(&mut self, buf: &mut Vec<u8>) -> Result<(), LocalStoreError> {
        match self.state {
            DumpState::Done => Ok(()),
            DumpState::Start => self.start(buf),
            DumpState::Directory => self.directory(buf),
            DumpState::Contents { left: 0, size, .. } => {
                file_end(buf, size);
                self.end_node(buf, self.open.len())
            }
            DumpState::Contents { .. } => self.contents(buf),
        }
    }

    fn start(&mut self, buf: &mut Vec<u8>) -> Result<(), LocalStoreError> {
        let node = directory::open(self.store_dir.as_fd(), &self.name()?, FileType::Unknown);
        let node = node.map_err(|error| error.at(&self.files))?;
        magic(buf);
        self.node(node, buf)
    }

    /// The name of the path in the store's folder.
    fn name(&self) -> Result<CString, LocalStoreError> {
        let nul = |_| NodeError::Limit("a name without NUL", "NUL".to_owned()).at(&self.files);
        CString::new(self.path.base_name()).map_err(nul)
    }

    fn directory(&mut self, buf: &mut Vec<u8>) -> Result<(), LocalStoreError> {
        let Some(dir) = self.open.last() else {
            return Ok(());
        };
        let Some((name, kind)) = dir.entry() else {
            directory_end(buf);
            return self.end_node(buf, self.open.len() - 1);
        };
        let node = directory::open(dir.dir.as_fd(), name, kind)
            .map_err(|error| error.at(&self.current_path()))?;
        entry_start(buf, dir.nar_name());
        self.node(node, buf)
    }

    fn node(&mut self, node: Node, buf: &mut Vec<u8>) -> Result<(), LocalStoreError> {
        if self.open.len() >= MAX_DEPTH {
            let expected = "at most 64 nodes within each other";
            return Err(NodeError::Limit(expected, "one more".to_owned()).at(&self.current_path()));
        }
        match node {
            Node::File {
                file,
                executable,
                size,
            } => {
                file_start(buf, executable, size);
                let left = size;
                self.state = DumpState::Contents { file, size, left };
                Ok(())
            }
            Node::Symlink(target) => {
                symlink(buf, &target);
                self.end_node(buf, self.open.len())
            }
            Node::Directory(mut dir) => {
                if dir.has_case_hack() && self.has_case_hack()? {
                    dir.undo_case_hack();
                }
                directory_start(buf);
                self.open.push(dir);
                self.state = DumpState::Directory;
                Ok(())
            }
        }
    }

    /// Whether the names of this path have to be undone. All that came before is the same either way.
    fn has_case_hack(&mut self) -> Result<bool, LocalStoreError> {
        if let Some(known) = self.case_hack {
            return Ok(known);
        }
        let gives_size = match self.size {
            0 => Ok(false),
            size => case_hack::is_size_without_hack(self.store_dir.as_fd(), &self.name()?, size),
        };
        let has = gives_size.map_err(|error| error.at(&self.files))?;
        self.case_hack = Some(has);
        Ok(has)
    }

    /// Goes on after a node that is complete in `buf`, with `open` directories around it.
    fn end_node(&mut self, buf: &mut Vec<u8>, open: usize) -> Result<(), LocalStoreError> {
        if open == 0 {
            let got = self.given + buf.len() as u64;
            if self.size != 0 && got != self.size {
                return Err(LocalStoreError::Size {
                    path: self.path.clone(),
                    expected: self.size,
                    got,
                });
            }
            self.open.clear();
            self.state = DumpState::Done;
            return Ok(());
        }
        entry_end(buf);
        self.open.truncate(open);
        if let Some(dir) = self.open.last_mut() {
            dir.advance();
        }
        self.state = DumpState::Directory;
        Ok(())
    }

    fn contents(&mut self, buf: &mut Vec<u8>) -> Result<(), LocalStoreError> {
        let DumpState::Contents { file, size, left } = &mut self.state else {
            return Ok(());
        };
        let before = buf.len();
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&*file, spare_capacity(buf)));
        match read {
            Ok(0) => {
                let (expected, got) = (*size, *size - *left);
                Err(LocalStoreError::Shrank {
                    path: self.current_path(),
                    expected,
                    got,
                })
            }
            Ok(read) => {
                // A file that has grown gives more than was announced.
                let read = usize::try_from(*left).map_or(read, |left| left.min(read));
                buf.truncate(before + read);
                *left -= read as u64;
                Ok(())
            }
            Err(errno) => Err(NodeError::Io("read", errno).at(&self.current_path())),
        }
    }

    /// The object that is due or open, where it really is.
    fn current_path(&self) -> PathBuf {
        let names = self.open.iter().filter_map(OpenDirectory::entry_name);
        std::iter::once(self.files.as_os_str())
            .chain(names)
            .map(Path::new)
            .collect()
    }
}
