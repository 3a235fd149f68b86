//! Writes the tree of a NAR to disk, event by event.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::UnpackError;
use super::destination::Destination;
use super::remove::open_dir;
use crate::wire::nar::Event;

/// Contents that come in smaller pieces are collected to writes of about this many bytes.
const WRITE_SIZE: usize = 64 * 1024;
/// How much of a path an error shows, from its end.
const QUOTED_MAX_BYTES: usize = 400;

/// The modification time of everything in a Nix store. The other time is left as it is.
const CANONICAL_TIMES: Timestamps = Timestamps {
    last_access: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    },
    last_modification: Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    },
};

/// A tree that grows in a private folder.
#[derive(Debug)]
pub(super) struct Tree {
    /// The directories around the next node, the top first.
    open: Vec<Open>,
    /// The name of the next node in the innermost of them.
    name: Vec<u8>,
    file: Option<OpenFile>,
    /// Contents of the file that are not written yet.
    pending: Vec<u8>,
    /// Whether a file that is created with its final mode has it then, in this tree and under this process's umask: for
    /// plain and for executable files, once the first one was inspected.
    has_final_mode: [Option<bool>; 2],
    /// Whether the top is a directory.
    directory: bool,
    destination: Destination,
}

#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    name: Vec<u8>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    executable: bool,
    left: u64,
}

impl Tree {
    pub(super) fn new(destination: Destination) -> Self {
        Self {
            open: Vec::new(),
            name: Vec::new(),
            file: None,
            pending: Vec::new(),
            has_final_mode: [None; 2],
            directory: false,
            destination,
        }
    }

    pub(super) fn dest(&self) -> &Path {
        self.destination.dest()
    }

    pub(super) fn apply(&mut self, event: Event<'_>) -> Result<(), UnpackError> {
        match event {
            Event::Directory => self.directory_start(),
            Event::Entry(name) => {
                self.name.clear();
                self.name.extend_from_slice(name);
                Ok(())
            }
            Event::File { executable, size } => self.file_start(executable, size),
            Event::Contents(bytes) => self
                .contents(bytes)
                .map_err(|error| self.error("write file", error)),
            Event::FileEnd => self
                .file_end()
                .map_err(|error| self.error("finish file", error)),
            Event::Symlink(target) => self.symlink(target),
            Event::DirectoryEnd => self.directory_end(),
            Event::End => Ok(()),
        }
    }

    /// Gives the tree its name.
    pub(super) fn commit(&mut self) -> Result<(), UnpackError> {
        self.destination.commit(self.directory)
    }

    /// Makes the next node, under its name or as the top.
    fn make<T>(
        &mut self,
        action: &'static str,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        let made = self.here().and_then(|(dir, name)| make(dir, name));
        made.map_err(|error| match (error, self.open.last()) {
            (Errno::EXIST, Some(dir)) => UnpackError::Clash {
                path: self.shown(),
                other: name_differing_by_case(dir.fd.as_fd(), &self.name).map(|name| quoted(&name)),
            },
            (error, _) => self.error(action, error),
        })
    }

    /// The directory of the next node and its name in there.
    fn here(&mut self) -> Result<(BorrowedFd<'_>, &[u8]), Errno> {
        match self.open.last() {
            Some(dir) => Ok((dir.fd.as_fd(), &self.name)),
            None => self.destination.top(),
        }
    }

    fn directory_start(&mut self) -> Result<(), UnpackError> {
        let action = "create directory";
        self.make(action, |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::RWXU)
        })?;
        self.directory |= self.open.is_empty();
        let opened = self.here().and_then(|(dir, name)| open_dir(dir, name));
        let fd = opened.map_err(|error| self.error(action, error))?;
        self.open.push(Open {
            fd,
            name: std::mem::take(&mut self.name),
        });
        Ok(())
    }

    fn directory_end(&mut self) -> Result<(), UnpackError> {
        let Some(dir) = self.open.pop() else {
            return Ok(());
        };
        self.name = dir.name;
        rustix::fs::fchmod(&dir.fd, Mode::from_raw_mode(0o555))
            .and_then(|()| rustix::fs::futimens(&dir.fd, &CANONICAL_TIMES))
            .map_err(|error| self.error("finish directory", error))
    }

    fn symlink(&mut self, target: &[u8]) -> Result<(), UnpackError> {
        let action = "create symlink";
        self.make(action, |dir, name| rustix::fs::symlinkat(target, dir, name))?;
        let set = |(dir, name): (BorrowedFd<'_>, &[u8])| {
            rustix::fs::utimensat(dir, name, &CANONICAL_TIMES, AtFlags::SYMLINK_NOFOLLOW)
        };
        let set = self.here().and_then(set);
        set.map_err(|error| self.error(action, error))
    }

    fn file_start(&mut self, executable: bool, size: u64) -> Result<(), UnpackError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The mode does not bind the descriptor that it was created with. A file that is the top
        // has no closed directory around it that keeps others from reading before it is verified.
        let mode = if self.open.is_empty() {
            Mode::RUSR | Mode::WUSR
        } else {
            final_mode(executable)
        };
        let fd = self.make("create file", |dir, name| {
            rustix::fs::openat(dir, name, flags, mode)
        })?;
        self.file = Some(OpenFile {
            file: fd.into(),
            executable,
            left: size,
        });
        Ok(())
    }

    fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(OpenFile { file, left, .. }) = &mut self.file else {
            return Ok(());
        };
        *left = left.saturating_sub(bytes.len() as u64);
        let last = *left == 0;
        if self.pending.is_empty() && (last || bytes.len() >= WRITE_SIZE / 2) {
            return file.write_all(bytes);
        }
        self.pending.extend_from_slice(bytes);
        if last || self.pending.len() >= WRITE_SIZE {
            file.write_all(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn file_end(&mut self) -> io::Result<()> {
        let Some(OpenFile {
            file, executable, ..
        }) = self.file.take()
        else {
            return Ok(());
        };
        // In a tree of many small files each call to the system counts.
        let mode = final_mode(executable);
        let has_final_mode = if self.open.is_empty() {
            false
        } else {
            match &mut self.has_final_mode[usize::from(executable)] {
                Some(known) => *known,
                unknown => {
                    let made = Mode::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
                    *unknown.insert(made == mode)
                }
            }
        };
        if !has_final_mode {
            rustix::fs::fchmod(&file, mode)?;
        }
        rustix::fs::futimens(&file, &CANONICAL_TIMES)?;
        Ok(())
    }

    fn error(&self, action: &'static str, error: impl Into<io::Error>) -> UnpackError {
        UnpackError::Io {
            action,
            path: self.shown(),
            source: error.into(),
        }
    }

    /// The next node for a message: its path in the archive, and the destination.
    fn shown(&self) -> String {
        let dest = self.destination.dest();
        if self.open.is_empty() {
            return format!("{dest:?}");
        }
        // The top has no name.
        let names = self.open[1..].iter().map(|dir| &dir.name[..]);
        let path: Vec<&[u8]> = names.chain([&self.name[..]]).collect();
        format!("{} of {dest:?}", quoted(&path.join(&b'/')))
    }
}

#[cfg(test)]
impl Tree {
    pub(super) fn replace_file(&mut self, by: File) {
        if let Some(open) = &mut self.file {
            open.file = by;
        }
    }
}

/// The mode of files in a Nix store.
fn final_mode(executable: bool) -> Mode {
    Mode::from_raw_mode(if executable { 0o555 } else { 0o444 })
}

/// In quotes, all but printable ASCII escaped, cut at the front when it is long.
fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[bytes.len().saturating_sub(QUOTED_MAX_BYTES)..];
    let dots = if shown.len() < bytes.len() { "…" } else { "" };
    format!("\"{dots}{}\"", shown.escape_ascii())
}

/// The name in `dir` that differs from `name` at most by case.
fn name_differing_by_case(dir: BorrowedFd<'_>, name: &[u8]) -> Option<Vec<u8>> {
    let fold = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let folded = fold(name);
    Dir::read_from(dir)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| CStr::to_bytes(entry.file_name()).to_vec())
        .find(|other| other != name && fold(other) == folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_found_by_case_but_the_name_itself_is_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Straße-README"), "").unwrap();
        std::fs::write(dir.path().join("other"), "").unwrap();
        let fd = File::open(dir.path()).unwrap();
        let differing = |name: &str| name_differing_by_case(fd.as_fd(), name.as_bytes());
        assert_eq!(differing("straße-readme"), Some("Straße-README".into()));
        assert_eq!(differing("other"), None);
        assert_eq!(differing("absent"), None);
    }

    #[test]
    fn quoted_paths_are_short_and_harmless() {
        assert_eq!(quoted(b"a\x1b[2J\xff"), r#""a\x1b[2J\xff""#);
        let long = [b"start".to_vec(), vec![b'x'; 1000], b"/end".to_vec()].concat();
        let shown = quoted(&long);
        assert!(
            shown.starts_with("\"…x") && shown.ends_with("/end\""),
            "{shown}"
        );
    }
}
