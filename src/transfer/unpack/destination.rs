//! Where a tree grows, and how it gets its name.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::UnpackError;
use super::remove::{is_stopped, open_dir};
use super::staging::{IfExists, Staging};
use crate::sys;

/// A destination, and beside it the private folder that the tree grows in.
#[derive(Debug)]
pub(super) struct Destination {
    dest: PathBuf,
    parent: OwnedFd,
    /// What stands before `.chroot` in the private folder's name.
    stem: Vec<u8>,
    if_exists: IfExists,
    staging: Option<Staging>,
}

impl Destination {
    /// `stem` names the private folder; without it the destination's own name does.
    pub(super) fn new(
        dest: &Path,
        stem: Option<&OsStr>,
        if_exists: IfExists,
    ) -> Result<Self, UnpackError> {
        let prepare = |error: Errno| UnpackError::Prepare(dest.to_owned(), error.into());
        // A path that ends in a slash or a dot has a file name to `Path`, and resolves differently.
        let name = dest.file_name().filter(|name| {
            let (path, name) = (dest.as_os_str().as_bytes(), name.as_bytes());
            path.ends_with(name)
        });
        let (Some(name), Some(parent)) = (name, dest.parent()) else {
            return Err(UnpackError::NoName(dest.to_owned()));
        };
        let parent = open_parent(parent).map_err(prepare)?;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(prepare(error)),
            Ok(_) => {
                return Err(UnpackError::Exists(dest.to_owned()));
            }
        }
        Ok(Self {
            stem: stem.unwrap_or(name).as_bytes().to_vec(),
            dest: dest.to_owned(),
            parent,
            if_exists,
            staging: None,
        })
    }

    pub(super) fn dest(&self) -> &Path {
        &self.dest
    }

    /// The folder that the tree's top is made in, and the name that it has there.
    pub(super) fn top(&mut self) -> Result<(BorrowedFd<'_>, &[u8]), Errno> {
        if self.staging.is_none() {
            let staging = Staging::new(self.parent.as_fd(), &self.stem, self.if_exists)?;
            self.staging = Some(staging);
        }
        // Made just now, if not before.
        let staging = self.staging.as_ref().ok_or(Errno::NOENT)?;
        Ok((staging.folder(), staging.top()))
    }

    /// Moves what was made to the destination.
    pub(super) fn commit(&mut self, directory: bool) -> Result<(), UnpackError> {
        let Some(staging) = self.staging.take() else {
            return Err(UnpackError::Incomplete(self.dest.clone()));
        };
        let to = self.dest.file_name().unwrap_or_default();
        match move_top(&staging, self.parent.as_fd(), to, directory) {
            Ok(()) => {
                staging.discard_empty();
                Ok(())
            }
            Err(error) => {
                self.staging = Some(staging);
                Err(match error {
                    Errno::EXIST | Errno::NOTEMPTY => UnpackError::Exists(self.dest.clone()),
                    error => UnpackError::Commit(self.dest.clone(), error.into()),
                })
            }
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        let Some(staging) = self.staging.take().filter(|_| !is_stopped()) else {
            return;
        };
        let left = self.dest.with_file_name(OsStr::from_bytes(staging.name()));
        if let Err(error) = staging.remove(self.parent.as_fd())
            && !is_stopped()
        {
            log::warn!(
                "cannot remove the incomplete {left:?}: {}",
                io::Error::from(error)
            );
        }
    }
}

/// Opens the folder that something is in, as the system resolves it.
pub(super) fn open_parent(parent: &Path) -> Result<OwnedFd, Errno> {
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, parent, flags, Mode::empty())
}

/// The one step that makes it visible.
fn move_top(
    staging: &Staging,
    parent: BorrowedFd<'_>,
    to: &OsStr,
    directory: bool,
) -> Result<(), Errno> {
    let (folder, top) = (staging.folder(), staging.top());
    let rename = || match rustix::fs::renameat_with(folder, top, parent, to, RenameFlags::NOREPLACE)
    {
        // NFS, and others before they learned it, know no such rename.
        Err(error) if sys::is_unsupported(error) => {
            rename_in_two_steps((folder, top), (parent, to), directory)
        }
        other => other,
    };
    match rename() {
        // A folder knows the one above it: to change that, one has to be allowed to write in it. Root always is.
        Err(Errno::ACCESS | Errno::PERM) if directory => {
            let dir = open_dir(folder, top)?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
            rename()?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o555))
        }
        other => other,
    }
}

/// A rename that replaces nothing, for file systems that have none: each first step fails when the
/// name is taken, and the second can lose nothing.
fn rename_in_two_steps(
    (folder, from): (BorrowedFd<'_>, &[u8]),
    (parent, to): (BorrowedFd<'_>, &OsStr),
    directory: bool,
) -> Result<(), Errno> {
    if directory {
        // A directory may replace one that is empty, and only that.
        rustix::fs::mkdirat(parent, to, Mode::RWXU)?;
        rustix::fs::renameat(folder, from, parent, to).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(parent, to, AtFlags::REMOVEDIR);
        })
    } else {
        rustix::fs::linkat(folder, from, parent, to, AtFlags::empty())?;
        rustix::fs::unlinkat(folder, from, AtFlags::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_two_step_rename_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        let rename = |from: &str, to: &str, directory| {
            let root = root.as_fd();
            rename_in_two_steps((root, from.as_bytes()), (root, to.as_ref()), directory)
        };
        fs::write(dir.path().join("file"), "new").unwrap();
        fs::write(dir.path().join("taken"), "old").unwrap();
        fs::create_dir_all(dir.path().join("tree/inner")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("taken", dir.path().join("link")).unwrap();

        assert_eq!(rename("file", "taken", false), Err(Errno::EXIST));
        assert_eq!(rename("file", "empty", false), Err(Errno::EXIST));
        assert_eq!(rename("tree", "taken", true), Err(Errno::EXIST));
        assert_eq!(rename("tree", "empty", true), Err(Errno::EXIST));
        assert_eq!(rename("link", "taken", false), Err(Errno::EXIST));
        assert_eq!(fs::read(dir.path().join("taken")).unwrap(), b"old");

        rename("file", "file2", false).unwrap();
        rename("link", "link2", false).unwrap();
        rename("tree", "tree2", true).unwrap();
        assert_eq!(fs::read(dir.path().join("file2")).unwrap(), b"new");
        assert!(dir.path().join("link2").is_symlink());
        assert!(dir.path().join("tree2/inner").is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }
}
