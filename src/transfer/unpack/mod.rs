//! Restores a NAR to disk as it streams in, safely and as Nix would have it.
//!
//! The tree grows in a private folder beside its destination (`NAME.chroot`, see `staging`) and gets
//! its own name only by [`Unpacker::commit`], in one step and never over anything that is there.
//! Dropped before that, it is removed again, though a process that is told to end does not take its time
//! for that: what it leaves behind ([`leave_behind`]) is harmless, and removed by whoever restores there next.
//!
//! | what | becomes |
//! | --- | --- |
//! | regular file | mode 0444, or 0555 when executable |
//! | directory | mode 0555; 0700 while it grows, so that no other user reaches into it |
//! | modification time | 1 second after the epoch, for symlinks and directories too |
//!
//! That is how Nix canonicalises what it adds to a store (`libstore/local-store.cc`). Whatever the
//! umask, the modes come out the same.
//!
//! Nothing is ever written through a symlink: every name is used relative to the descriptor of the
//! directory that holds it, with `O_NOFOLLOW`, and everything is made anew (`O_EXCL`), so a symlink
//! from the archive or from a neighbour is in the way at worst. The directory of the destination
//! itself is opened as the system resolves it.
//!
//! Memory stays constant: one unit of the grammar, one buffer of file contents, and a descriptor
//! and a name for each of the at most [`MAX_DEPTH`](crate::wire::nar::MAX_DEPTH) open directories.

mod destination;
mod remove;
mod staging;
mod tree;

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::model::StorePath;
use crate::wire::nar::{Decoder, Event, NarError};
use destination::Destination;
use staging::IfExists;
use tree::Tree;

/// How many bytes are joined to an incomplete unit at a time. Any number will do; one that is about
/// the size of the largest unit (a symlink) completes most of them at the first attempt.
const JOIN_SIZE: usize = 4096;

/// Why a NAR could not be restored. Paths inside the archive are escaped and relative to its top;
/// the others are where it should have been restored to.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The destination's path does not name something in a directory.
    #[error("{0:?} does not end in a file name")]
    NoName(PathBuf),
    /// The destination, or its directory, cannot be looked at.
    #[error("cannot prepare to restore {0:?}")]
    Prepare(PathBuf, #[source] io::Error),
    /// Something has the destination's name already.
    #[error("{0:?} exists already")]
    Exists(PathBuf),
    /// The bytes are no acceptable NAR.
    #[error("cannot restore {0:?}")]
    Nar(PathBuf, #[source] NarError),
    /// More bytes came than the archive has.
    #[error("more bytes follow the end of the NAR for {0:?}")]
    Trailing(PathBuf),
    /// The system refused something.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb and its object: `write file`.
        action: &'static str,
        /// What of the archive it was about, and the destination.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The name is taken in its directory, although it comes only once in the archive.
    #[error("cannot create {path}: {}", clash(other.as_deref()))]
    Clash {
        /// What of the archive it was about, and the destination.
        path: String,
        /// The name that the file system takes for the same one, if there is one.
        other: Option<String>,
    },
    /// An earlier call failed.
    #[error("restoring {0:?} has failed already")]
    Failed(PathBuf),
    /// The archive has not ended yet.
    #[error("the NAR for {0:?} is incomplete")]
    Incomplete(PathBuf),
    /// The complete tree could not be given its name.
    #[error("cannot move what was restored to {0:?}")]
    Commit(PathBuf, #[source] io::Error),
}

fn clash(other: Option<&str>) -> String {
    match other {
        Some(other) => format!("its file system takes the name for the same as {other}"),
        None => "something has appeared there meanwhile".to_owned(),
    }
}

/// Restores one NAR. Synchronous: for a thread that may block.
#[derive(Debug)]
pub struct Unpacker {
    decoder: Decoder,
    /// The beginning of a unit whose rest has not come yet.
    kept: Vec<u8>,
    tree: Tree,
    failed: bool,
}

impl Unpacker {
    /// Prepares to restore an archive of at most `limit` bytes to `dest`, which must not exist;
    /// the directory that it goes into must.
    ///
    /// # Errors
    /// [`UnpackError::NoName`], [`UnpackError::Exists`] and [`UnpackError::Prepare`].
    pub fn new(dest: &Path, limit: u64) -> Result<Self, UnpackError> {
        Ok(Self::at(
            Destination::new(dest, None, IfExists::RemoveLeftOver)?,
            limit,
        ))
    }

    /// As [`new`](Self::new), for Nix 1.x, which wants to have `path` restored to `dest`.
    ///
    /// That is the path itself or, in a repair of it, `PATH.tmp`. Either way it is PATH that is a temporary root, and
    /// PATH that Nix has locked (`SubstitutionGoal` in `libstore/build.cc`), so that the tree grows in `PATH.chroot`:
    /// nobody else makes or repairs this path meanwhile, and what has that name is left over from who did.
    ///
    /// But `DRV.chroot` belongs to builds of DRV, which lock its outputs and not the derivation. None runs while there
    /// is no derivation yet; while it is repaired, one may. Then the tree grows in `DRV.tmp.chroot`, which no
    /// collector spares, no more than it does `DRV.tmp`: it is there for a moment only.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_nix(path: &StorePath, dest: &Path, limit: u64) -> Result<Self, UnpackError> {
        let base = path.base_name();
        let name = dest.file_name().unwrap_or_default();
        let repairs = name.as_bytes().strip_suffix(b".tmp") == Some(base.as_bytes());
        // By hand, anywhere else, it is nobody's lock that is held.
        let locked = dest.parent() == Path::new(path.as_str()).parent();
        let taken = match locked && (repairs || name == base) {
            true => IfExists::Replace,
            false => IfExists::RemoveLeftOver,
        };
        let stem = (repairs && !base.ends_with(".drv")).then(|| OsStr::new(base));
        Ok(Self::at(Destination::new(dest, stem, taken)?, limit))
    }

    fn at(destination: Destination, limit: u64) -> Self {
        Self {
            decoder: Decoder::new(limit),
            kept: Vec::new(),
            tree: Tree::new(destination),
            failed: false,
        }
    }

    /// Takes the next bytes of the archive, split anywhere.
    ///
    /// # Errors
    /// When they are no acceptable NAR, more than one, or cannot be put on disk. Nothing more can
    /// be written then; dropping the unpacker removes what was made.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if self.failed {
            return Err(UnpackError::Failed(self.tree.dest().to_owned()));
        }
        let done = self.take(bytes);
        self.failed = done.is_err();
        done
    }

    /// Whether the whole archive has come and is on disk.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.decoder.is_complete() && !self.failed
    }

    /// Gives the tree its name.
    ///
    /// # Errors
    /// When the archive is not complete, when its name is taken by now (what is there is left as
    /// it is), or the system refuses. What was made is removed then.
    pub fn commit(mut self) -> Result<(), UnpackError> {
        if self.is_complete() {
            self.tree.commit()
        } else {
            Err(UnpackError::Incomplete(self.tree.dest().to_owned()))
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), UnpackError> {
        while !self.kept.is_empty() && !bytes.is_empty() {
            let old = self.kept.len();
            let joined = bytes.len().min(JOIN_SIZE);
            self.kept.extend_from_slice(&bytes[..joined]);
            let (read, _) = step(&mut self.decoder, &mut self.tree, &self.kept)?;
            if read == 0 {
                bytes = &bytes[joined..];
            } else {
                // What was kept is less than a unit, so whatever was read goes beyond it.
                debug_assert!(read >= old, "{read} bytes read of {old} kept");
                self.kept.clear();
                bytes = &bytes[read.saturating_sub(old)..];
            }
        }
        while !bytes.is_empty() {
            let (read, more) = step(&mut self.decoder, &mut self.tree, bytes)?;
            bytes = &bytes[read..];
            if !more {
                self.kept.extend_from_slice(bytes);
                break;
            }
        }
        Ok(())
    }
}

/// Removes what stands at `path`, as restored trees are: read-only directories included, no symlink
/// followed. Nothing there is as good.
///
/// # Errors
/// The system's first reason why something could not be removed; the rest is removed all the same.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = destination::open_parent(parent)?;
    Ok(remove::remove(parent.as_fd(), name.as_bytes())?)
}

/// Removes from `folder` the trees that ended processes have left behind there. Those of living ones stay.
pub fn sweep(folder: &Path) {
    let swept = destination::open_parent(folder).and_then(|parent| staging::sweep(parent.as_fd()));
    // It takes up room, and nothing else.
    if swept != Ok(true) {
        log::debug!("not all that is left over in {folder:?} could be removed: {swept:?}");
    }
}

/// The process is about to end: what it has not removed at that time of its unfinished trees is left as it is, and so is
/// what would take long.
pub fn leave_behind(at: Instant) {
    remove::stop_at(at);
}

/// Puts the next event of `input` on disk. Tells how many bytes were read and whether the rest can
/// be looked at before more has come.
fn step(
    decoder: &mut Decoder,
    tree: &mut Tree,
    input: &[u8],
) -> Result<(usize, bool), UnpackError> {
    match decoder.step(input) {
        Ok((read, Some(Event::End))) if read < input.len() => {
            Err(UnpackError::Trailing(tree.dest().to_owned()))
        }
        Ok((read, Some(event))) => tree.apply(event).map(|()| (read, true)),
        Ok((read, None)) => Ok((read, false)),
        Err(error) => Err(UnpackError::Nar(tree.dest().to_owned(), error)),
    }
}
