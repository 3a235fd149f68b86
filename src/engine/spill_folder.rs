//! Files without a name for what is read ahead on disk.

use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FallocateFlags, Mode, OFlags, fallocate, fstatfs, fstatvfs, open, openat, unlinkat,
};
use rustix::io::Errno;

use crate::cache::disk::Environment;
use crate::sys::{self, files};
use crate::transfer::{SpillDisk, SpillFile};

/// Where files are made if the private cache folder is in memory, or there is none. Nobody else can open a file without a
/// name.
const FALLBACK: &str = "/var/tmp";

/// `f_type` of file systems in memory: what would be written there takes the memory that it shall spare.
pub(super) const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// So many bytes are left free on the disk: others need them, as the store does.
pub(super) const LEFT_FREE: u64 = 1 << 30;

/// Makes files in the private cache folder that have no name, or lose it at once, so that nothing is left behind.
pub struct SpillFolder {
    environment: Environment,
    /// Opened when the first file is made, by threads that may block.
    folder: Mutex<Option<Arc<OwnedFd>>>,
    files: AtomicU64,
}

impl SpillFolder {
    /// In the folder that `environment` names. Nothing is opened yet.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            folder: Mutex::default(),
            files: AtomicU64::new(0),
        }
    }

    fn folder(&self) -> io::Result<Arc<OwnedFd>> {
        let mut folder = self.folder.lock();
        if let Some(folder) = &*folder {
            return Ok(folder.clone());
        }
        let own = self.environment.folder().map_err(io::Error::other);
        let opened = own.and_then(|own| open_on_disk(&own));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                log::debug!("nothing is read ahead in the cache folder: {error}");
                open_on_disk(Path::new(FALLBACK))?
            }
        };
        Ok(folder.insert(Arc::new(opened)).clone())
    }

    /// A file in `folder` that no other process can find.
    fn make(&self, folder: impl AsFd) -> io::Result<OwnedFd> {
        match files::unnamed(folder.as_fd()) {
            Err(Errno::NOTSUP) => self.make_named(folder),
            made => Ok(made?),
        }
    }

    /// The same by a name that it loses at once.
    fn make_named(&self, folder: impl AsFd) -> io::Result<OwnedFd> {
        let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let name = format!(".readahead-{}-{number}", std::process::id());
        // One of that name is left of a process that was killed at this very moment.
        let _ = unlinkat(&folder, &name, AtFlags::empty());
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = openat(&folder, &name, flags, mode)?;
        unlinkat(&folder, &name, AtFlags::empty())?;
        Ok(file)
    }
}

fn open_on_disk(path: &Path) -> io::Result<OwnedFd> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty()).map_err(|error| named(error.into()))?;
    let kind = fstatfs(&folder)
        .map_err(|error| named(error.into()))?
        .f_type;
    match IN_MEMORY.contains(&(kind as u64 & 0xffff_ffff)) {
        true => Err(named(io::Error::other("it is in memory, not on a disk"))),
        false => Ok(folder),
    }
}

impl SpillDisk for SpillFolder {
    fn create(&self, size: u64) -> io::Result<Box<dyn SpillFile>> {
        let folder = self.folder()?;
        let space = fstatvfs(&folder)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < size.saturating_add(LEFT_FREE) {
            let text = format!("{free} bytes are free, expected {size} and {LEFT_FREE} more");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        let file = self.make(&folder)?;
        match fallocate(&file, FallocateFlags::empty(), 0, size) {
            // It is full when it is written to, at worst.
            Err(error) if !sys::is_unsupported(error) => return Err(error.into()),
            _ => {}
        }
        Ok(Box::new(Unnamed(File::from(file))))
    }
}

struct Unnamed(File);

impl SpillFile for Unnamed {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn folder_in(path: PathBuf) -> SpillFolder {
        SpillFolder::new(Environment {
            explicit: Some(path),
            uid: rustix::process::geteuid().as_raw(),
            ..Environment::default()
        })
    }

    fn names(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    /// In the target folder: the temporary one may be in memory.
    fn on_disk() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    #[test]
    fn a_file_has_no_name_and_keeps_what_is_written() {
        let temp = on_disk();
        let spill = folder_in(temp.path().join("cache"));
        let file = spill.create(1 << 20).unwrap();
        file.write_at(b"world", 7).unwrap();
        file.write_at(b"hello, ", 0).unwrap();
        let mut read = [0; 12];
        file.read_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"hello, world");
        assert!(file.read_at(&mut read, 1 << 20).is_err(), "behind its end");
        assert_eq!(names(&temp.path().join("cache")), 0);
        // Where there are only files with names.
        let named = spill.make_named(spill.folder().unwrap()).unwrap();
        let named = Unnamed(File::from(named));
        named.write_at(b"there", 0).unwrap();
        named.read_at(&mut read[..5], 0).unwrap();
        assert_eq!(&read[..5], b"there");
        assert_eq!(names(&temp.path().join("cache")), 0);
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let temp = on_disk();
        let spill = folder_in(temp.path().join("cache"));
        let full = spill.create(1 << 60).err().unwrap();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
        if Path::new("/dev/shm").is_dir() {
            let error = open_on_disk(Path::new("/dev/shm")).unwrap_err();
            assert!(error.to_string().contains("in memory"), "{error}");
        }
        assert!(open_on_disk(&temp.path().join("missing")).is_err());
    }

    #[test]
    fn a_folder_that_is_refused_is_replaced() {
        let temp = on_disk();
        fs::write(temp.path().join("file"), "").unwrap();
        let spill = folder_in(temp.path().join("file"));
        assert_eq!(spill.create(1).is_ok(), Path::new(FALLBACK).is_dir());
    }
}
