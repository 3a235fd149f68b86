//! Files for what interrupted commands have received of large NARs: in a private folder, each named by the hash of its NAR
//! and locked while it is used.
//!
//! ```text
//! CACHE/partial/NARHASH                      for all commands of a user; for an hour
//! DIR/.ssh-substituter-partial/NARHASH       for `get --to DIR`; for a week
//! ```
//!
//! What is there is opened relative to the folder and without following links, and is refused if it is not ours alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fstatfs, fstatvfs,
    ftruncate, mkdirat, open, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::spill_folder::{IN_MEMORY, LEFT_FREE};
use crate::cache::disk::Environment;
use crate::model::NarHash;
use crate::transfer::{PartialFile, PartialFiles};

/// The folder's name in the private cache folder.
const IN_CACHE: &str = "partial";

/// Its name in the destination of `get`.
const IN_DESTINATION: &str = ".ssh-substituter-partial";

/// How long a file stays in the cache folder after the last byte was written.
const MAX_AGE_IN_CACHE: Duration = Duration::from_secs(60 * 60);

/// The same in a destination, where people go on with a command the next day.
const MAX_AGE_IN_DESTINATION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// After so many more bytes it is checked again whether there is room.
const CHECK_INTERVAL: u64 = 4 << 20;

/// How many names are looked at in the folder.
const MAX_NAMES: usize = 10_000;

/// A private folder, made when it is needed. What it holds is limited.
pub struct PartialFolder(Arc<Place>);

struct Place {
    within: Within,
    name: &'static str,
    max_age: Duration,
    /// How many bytes it may hold.
    limit: u64,
    uid: u32,
}

enum Within {
    Cache(Environment),
    Destination(PathBuf),
}

/// One file in it.
struct Partial {
    place: Arc<Place>,
    folder: OwnedFd,
    name: String,
    file: File,
    /// From this offset on it is not known whether there is room.
    checked_to: AtomicU64,
    /// Another file may have the name by now.
    is_removed: AtomicBool,
}

impl PartialFolder {
    /// In the private cache folder of this user, with at most `limit` bytes.
    #[must_use]
    pub fn in_cache(limit: u64) -> Self {
        let within = Within::Cache(Environment::of_process());
        Self::new(within, IN_CACHE, MAX_AGE_IN_CACHE, limit)
    }

    /// In the folder that paths are fetched into, with at most `limit` bytes.
    #[must_use]
    pub fn in_destination(folder: PathBuf, limit: u64) -> Self {
        let within = Within::Destination(folder);
        Self::new(within, IN_DESTINATION, MAX_AGE_IN_DESTINATION, limit)
    }

    fn new(within: Within, name: &'static str, max_age: Duration, limit: u64) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self(Arc::new(Place {
            within,
            name,
            max_age,
            limit,
            uid,
        }))
    }

    /// Locks the file of a NAR; `None` when there is none and none is to be made.
    fn lock(&self, nar: NarHash, make: bool) -> io::Result<Option<Partial>> {
        let place = &self.0;
        let Some(folder) = place.open(make)? else {
            return Ok(None);
        };
        let name = nar.base16();
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        flags.set(OFlags::CREATE, make);
        loop {
            let file = match openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::NOENT) if !make => return Ok(None),
                opened => opened?,
            };
            let stat = fstat(&file)?;
            if !place.is_own_file(&stat) {
                return Err(io::Error::other("it is no file of ours alone"));
            }
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            // The one that had it locked before may have removed it.
            match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if there.st_ino == stat.st_ino => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            }
            return Ok(Some(Partial {
                place: place.clone(),
                folder,
                name,
                file: File::from(file),
                checked_to: AtomicU64::new(0),
                is_removed: AtomicBool::new(false),
            }));
        }
    }
}

impl Place {
    /// The folder; `None` when there is none and none is to be made.
    fn open(&self, make: bool) -> io::Result<Option<OwnedFd>> {
        let within = match &self.within {
            Within::Cache(environment) => environment.folder().map_err(io::Error::other)?,
            Within::Destination(folder) => folder.clone(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = open(&within, flags, Mode::empty())?;
        if make {
            match mkdirat(&within, self.name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let folder = match openat(&within, self.name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOENT) if !make => return Ok(None),
            opened => opened?,
        };
        let stat = fstat(&folder)?;
        if stat.st_uid != self.uid || stat.st_mode & 0o077 != 0 {
            return Err(io::Error::other(format!(
                "the folder {} is refused: expected one of user {} with mode 0700, got one of user {} with mode {:04o}",
                self.name,
                self.uid,
                stat.st_uid,
                stat.st_mode & 0o7777
            )));
        }
        if matches!(self.within, Within::Cache(_))
            && IN_MEMORY.contains(&(fstatfs(&folder)?.f_type as u64 & 0xffff_ffff))
        {
            return Err(io::Error::other(
                "the cache folder is in memory, not on a disk",
            ));
        }
        Ok(Some(folder))
    }

    fn is_own_file(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == self.uid
            && stat.st_nlink == 1
            && stat.st_mode & 0o077 == 0
    }

    /// The files, the oldest first: names, sizes, ages.
    fn files(&self, folder: impl AsFd) -> io::Result<Vec<(NarHash, u64, Duration)>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let mut files = Vec::new();
        for entry in Dir::read_from(&folder)?.take(MAX_NAMES) {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            let Ok(nar) = format!("sha256:{name}").parse::<NarHash>() else {
                continue;
            };
            let Ok(stat) = statat(&folder, nar.base16(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if self.is_own_file(&stat) {
                let written = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                files.push((nar, size, now.saturating_sub(written)));
            }
        }
        files.sort_by_key(|(nar, _, age)| (std::cmp::Reverse(*age), nar.base16()));
        Ok(files)
    }
}

impl PartialFiles for PartialFolder {
    fn sweep(&self) -> io::Result<Vec<(NarHash, u64)>> {
        let place = &self.0;
        let Some(folder) = place.open(false)? else {
            return Ok(Vec::new());
        };
        let mut stay = Vec::new();
        for (nar, size, age) in place.files(&folder)? {
            if age <= place.max_age && size > 0 {
                stay.push((nar, size));
            } else if let Ok(Some(old)) = self.lock(nar, false) {
                old.remove();
            }
        }
        Ok(stay)
    }

    fn open(&self, nar: NarHash) -> io::Result<Option<Box<dyn PartialFile>>> {
        let locked = self.lock(nar, false)?;
        Ok(locked.map(|partial| Box::new(partial) as Box<dyn PartialFile>))
    }

    fn create(&self, nar: NarHash) -> io::Result<Box<dyn PartialFile>> {
        let made = self.lock(nar, true)?.ok_or(io::ErrorKind::NotFound)?;
        made.make_room(0, 0).inspect_err(|_| made.remove())?;
        Ok(Box::new(made))
    }
}

impl Partial {
    /// Checks that there is room for some more bytes from `at` on, and for `rest` elsewhere on the disk. Others are removed
    /// for it, the oldest first.
    fn make_room(&self, at: u64, rest: u64) -> io::Result<()> {
        let no_room = |text: String| io::Error::new(io::ErrorKind::StorageFull, text);
        let files = self.place.files(&self.folder)?;
        let others = files
            .into_iter()
            .filter(|(nar, ..)| nar.base16() != self.name);
        let others: Vec<_> = others.collect();
        let limit = self.place.limit.saturating_sub(at + CHECK_INTERVAL);
        let mut held: u64 = others.iter().map(|(_, size, _)| size).sum();
        let folder = PartialFolder(self.place.clone());
        for (nar, size, _) in others {
            if held > limit
                && let Ok(Some(old)) = folder.lock(nar, false)
            {
                old.remove();
                held -= size;
            }
        }
        if held > limit || at + CHECK_INTERVAL > self.place.limit {
            // What is there stays.
            return Err(io::Error::other("as much is kept as may be"));
        }
        let space = fstatvfs(&self.folder)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let expected = rest.saturating_add(LEFT_FREE);
        match free < expected {
            true => Err(no_room(format!(
                "{free} bytes are free, expected {expected}"
            ))),
            false => Ok(()),
        }
    }
}

impl PartialFile for Partial {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64, rest: u64) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        while end > self.checked_to.load(Ordering::Relaxed) {
            let from = self.checked_to.load(Ordering::Relaxed).max(at);
            self.make_room(from, rest)?;
            self.checked_to
                .store(from + CHECK_INTERVAL, Ordering::Relaxed);
        }
        self.file.write_all_at(bytes, at)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        Ok(ftruncate(&self.file, size)?)
    }

    fn remove(&self) {
        if self.is_removed.swap(true, Ordering::Relaxed) {
            return;
        }
        // Locked by us, it is the one of that name.
        let _ = unlinkat(&self.folder, &self.name, AtFlags::empty());
        if let Within::Destination(folder) = &self.place.within {
            // Only if nothing else is in there.
            let _ = std::fs::remove_dir(folder.join(self.place.name));
        }
    }
}

#[cfg(test)]
mod tests;
