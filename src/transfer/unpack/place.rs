//! Where a tree grows, and how it gets its name.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{UnpackError, remove};

/// Longest file name, in bytes, on about every file system.
const MAX_FILE_NAME: usize = 255;
/// How many names are tried. Others are met only where a process of the same number has crashed.
const ATTEMPTS: usize = 1000;

/// A destination and the temporary name beside it. Dropped, it removes what has that name.
#[derive(Debug)]
pub(super) struct Place {
    dest: PathBuf,
    parent: OwnedFd,
    temporary: Vec<u8>,
    made: bool,
}

impl Place {
    pub(super) fn new(dest: &Path) -> Result<Self, UnpackError> {
        let prepare = |error: Errno| UnpackError::Prepare {
            dest: dest.to_owned(),
            source: error.into(),
        };
        // A path that ends in a slash or a dot has a file name to `Path`, and resolves differently.
        let name = dest.file_name().filter(|name| {
            let (path, name) = (dest.as_os_str().as_bytes(), name.as_bytes());
            path.ends_with(name)
        });
        let (Some(name), Some(parent)) = (name, dest.parent()) else {
            return Err(UnpackError::NoName {
                dest: dest.to_owned(),
            });
        };
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(prepare)?;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(prepare(error)),
            Ok(_) => {
                return Err(UnpackError::Exists {
                    dest: dest.to_owned(),
                });
            }
        }
        Ok(Self {
            temporary: temporary_name(name),
            dest: dest.to_owned(),
            parent,
            made: false,
        })
    }

    pub(super) fn dest(&self) -> &Path {
        &self.dest
    }

    /// The directory that the destination and its temporary neighbour are in.
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// The temporary name.
    pub(super) fn temporary(&self) -> &[u8] {
        &self.temporary
    }

    /// Makes something under the temporary name, taking another one where it is taken.
    pub(super) fn make<T>(
        &mut self,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        for _ in 0..ATTEMPTS {
            match make(self.parent.as_fd(), &self.temporary) {
                Err(Errno::EXIST) => self.temporary = temporary_name(self.name()),
                Err(error) => return Err(error),
                Ok(made) => {
                    self.made = true;
                    return Ok(made);
                }
            }
        }
        Err(Errno::EXIST)
    }

    /// Renames what was made to the destination.
    pub(super) fn commit(&mut self, directory: bool) -> Result<(), UnpackError> {
        let (parent, from, to) = (self.parent.as_fd(), &self.temporary[..], self.name());
        let moved =
            match rustix::fs::renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
                // NFS, and others before they learned it, know no such rename.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    rename_in_two_steps(parent, from, to, directory)
                }
                other => other,
            };
        match moved {
            Ok(()) => {
                self.made = false;
                Ok(())
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => Err(UnpackError::Exists {
                dest: self.dest.clone(),
            }),
            Err(error) => Err(UnpackError::Commit {
                dest: self.dest.clone(),
                source: error.into(),
            }),
        }
    }

    fn name(&self) -> &OsStr {
        self.dest.file_name().unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        if let Err(error) = remove::remove(self.parent(), &self.temporary) {
            let left = self.dest.with_file_name(OsStr::from_bytes(&self.temporary));
            log::warn!(
                "cannot remove the incomplete {left:?}: {}",
                io::Error::from(error)
            );
        }
    }
}

/// A rename that replaces nothing, for file systems that have none: each first step fails when the
/// name is taken, and the second can lose nothing.
fn rename_in_two_steps(
    parent: BorrowedFd<'_>,
    from: &[u8],
    to: &OsStr,
    directory: bool,
) -> Result<(), Errno> {
    if directory {
        // A directory may replace one that is empty, and only that.
        rustix::fs::mkdirat(parent, to, Mode::RWXU)?;
        rustix::fs::renameat(parent, from, parent, to).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(parent, to, AtFlags::REMOVEDIR);
        })
    } else {
        rustix::fs::linkat(parent, from, parent, to, AtFlags::empty())?;
        rustix::fs::unlinkat(parent, from, AtFlags::empty())
    }
}

/// `.NAME.tmp-PID-COUNTER`, with NAME cut so that all of it is a file name.
fn temporary_name(name: &OsStr) -> Vec<u8> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let end = format!(".tmp-{}-{count}", std::process::id());
    let name = name.as_bytes();
    let mut len = name.len().min(MAX_FILE_NAME - 1 - end.len());
    // Some file systems take only whole characters.
    while len < name.len() && len > 0 && name[len] & 0xc0 == 0x80 {
        len -= 1;
    }
    [b".", &name[..len], end.as_bytes()].concat()
}

/// Whether a name is one of those.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b".") else {
        return false;
    };
    let mark = b".tmp-";
    let Some(at) = rest.windows(mark.len()).rposition(|part| part == mark) else {
        return false;
    };
    let numbers = &rest[at + mark.len()..];
    let mut parts = numbers.split(|byte| *byte == b'-');
    let number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.next().is_some_and(number) && parts.next().is_some_and(number) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn temporary_names_are_new_and_fit() {
        for name in ["a".repeat(255), "é".repeat(127), "x".to_owned()] {
            let (first, second) = (temporary_name(name.as_ref()), temporary_name(name.as_ref()));
            assert_ne!(first, second);
            assert!(first.len() <= 255 && first[0] == b'.');
            assert!(is_temporary(&first), "{first:?}");
            assert!(std::str::from_utf8(&first).unwrap().contains(".tmp-"));
        }
        assert!(temporary_name(OsStr::from_bytes(&[0x80; 255])).starts_with(b"..tmp-"));
        for other in [
            "x",
            ".x",
            ".x.tmp-",
            ".x.tmp-1",
            ".x.tmp-1-",
            ".x.tmp-1-2-3",
            ".x.tmp-1-a",
            "x.tmp-1-2",
        ] {
            assert!(!is_temporary(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_two_step_rename_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        let rename = |from: &str, to: &str, directory| {
            rename_in_two_steps(root.as_fd(), from.as_bytes(), to.as_ref(), directory)
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
