//! The private folder that a tree grows in, beside its destination.
//!
//! ```text
//! DEST.chroot/                        mode 0700, flock(2)ed by whoever fills it
//! DEST.chroot/ssh-substituter-PID     the tree, until it is moved to DEST
//! ```
//!
//! In a store that Nix works on, whatever is no valid path is garbage to a collector that runs at the same time, and
//! garbage is removed. It spares what is being made: of a path that somebody has announced as a temporary root,
//! as Nix does before it asks for one, `PATH` itself, `PATH.lock` and `PATH.chroot` (`isActiveTempFile` in
//! `libstore/gc.cc` of Nix 1.7 to 1.11; later ones go by the hash in the name). Hence that name. Elsewhere it is as
//! good as any other, and it is taken back in the same way.
//!
//! A process that is ended leaves its folder behind. That nobody fills it any more shows by the lock; that it is one
//! of these, by what it holds. Where both is so, whoever needs the name, or cleans up, removes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::remove::{self, open_dir};

/// Longest file name, in bytes, on about every file system.
const MAX_FILE_NAME: usize = 255;

/// How many names are tried. Others than the first are needed only where somebody else has made them.
const MAX_NAMES: usize = 1000;

/// How often one name is tried: what has it may be removed between two steps.
const MAX_ATTEMPTS_PER_NAME: usize = 3;

/// How these folders' names end.
const FOLDER_SUFFIX: &[u8] = b".chroot";

/// How the tree's name begins.
const TOP_PREFIX: &str = "ssh-substituter-";

/// What to do when something has the folder's name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfExists {
    /// Remove it if it is left over from an ended process of this program, else choose another name.
    RemoveLeftOver,
    /// Remove it, whatever it is: nobody uses it.
    Replace,
}

/// A private folder of this process, locked as long as this lives.
#[derive(Debug)]
pub(super) struct Staging {
    name: Vec<u8>,
    top: String,
    folder: OwnedFd,
    parent: OwnedFd,
}

impl Staging {
    /// Makes one in `parent`, called `STEM.chroot` if possible.
    pub(super) fn new(
        parent: BorrowedFd<'_>,
        stem: &[u8],
        if_exists: IfExists,
    ) -> Result<Self, Errno> {
        let usual = [stem, FOLDER_SUFFIX].concat();
        let usual = (usual.len() <= MAX_FILE_NAME).then_some(usual);
        let others = std::iter::repeat_with(|| other_name(stem)).take(MAX_NAMES);
        for name in usual.into_iter().chain(others) {
            for _ in 0..MAX_ATTEMPTS_PER_NAME {
                match rustix::fs::mkdirat(parent, &*name, Mode::RWXU) {
                    Err(Errno::EXIST) if clear(parent, &name, if_exists) => continue,
                    Err(Errno::EXIST) => break,
                    made => made?,
                }
                if let Some(folder) = lock(parent, &name)? {
                    return Ok(Self {
                        name,
                        top: format!("{TOP_PREFIX}{}", std::process::id()),
                        folder,
                        parent: parent.try_clone_to_owned().map_err(|_| Errno::MFILE)?,
                    });
                }
            }
        }
        Err(Errno::EXIST)
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The tree's name in the folder.
    pub(super) fn top(&self) -> &[u8] {
        self.top.as_bytes()
    }

    /// The tree has been moved away: removes the folder.
    pub(super) fn discard_empty(self) {
        // Empty it harms nobody.
        let _ = rustix::fs::unlinkat(&self.parent, &*self.name, AtFlags::REMOVEDIR);
    }

    /// Removes it with what is in it.
    pub(super) fn remove(self, parent: BorrowedFd<'_>) -> Result<(), Errno> {
        remove::remove(parent, &self.name)
    }
}

/// Locks a folder that was made just now. `None` when another process took it for left over.
fn lock(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let folder = match open_dir(parent, name) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    if flock(&folder, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        return Ok(None);
    }
    // (Some network file systems lock no folders: there the process's number has to do.)
    let id = |stat: Stat| (stat.st_dev, stat.st_ino);
    let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(id);
    let same = there == rustix::fs::fstat(&folder).map(id);
    Ok((same && there.is_ok()).then_some(folder))
}

/// Removes what has that name, if allowed. Whether the name is free now.
fn clear(parent: BorrowedFd<'_>, name: &[u8], if_exists: IfExists) -> bool {
    let folder = match open(parent, name) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return true,
        // A file or a link.
        Err(_) => return if_exists == IfExists::Replace && remove::remove(parent, name).is_ok(),
    };
    is_left_over(&folder, name, if_exists) && remove_left_over(parent, name, if_exists)
}

/// Removes a folder that is left over and locked meanwhile. Where only this program is at work, it is renamed first,
/// since its name may be wanted.
fn remove_left_over(parent: BorrowedFd<'_>, name: &[u8], if_exists: IfExists) -> bool {
    if if_exists == IfExists::Replace {
        // A collector would take the other name for garbage, and fail over what is removed under its hands.
        return remove::remove(parent, name).is_ok();
    }
    let other = other_name(name);
    let flags = RenameFlags::NOREPLACE;
    let name = match rustix::fs::renameat_with(parent, name, parent, &*other, flags) {
        Ok(()) => &*other,
        Err(_) => name,
    };
    remove::remove(parent, name).is_ok()
}

/// Opens a folder that may belong to anybody.
fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Whether nobody fills this folder, and it may be removed.
fn is_left_over(folder: &OwnedFd, name: &[u8], if_exists: IfExists) -> bool {
    let ours = |stat: Stat| stat.st_uid == rustix::process::geteuid().as_raw();
    if !rustix::fs::fstat(folder).is_ok_and(ours) {
        return false;
    }
    let locked = match flock(folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(Errno::WOULDBLOCK) => return false,
        Err(_) => false,
    };
    let Some(fillers) = fillers(folder) else {
        return if_exists == IfExists::Replace;
    };
    if !locked && fillers.iter().any(|pid| is_alive(*pid)) {
        return false;
    }
    // Empty, it might be anybody's: then its name has to tell.
    if_exists == IfExists::Replace || !fillers.is_empty() || is_named_by_a_store_path(name)
}

/// The processes that have begun trees in this folder; `None` when it holds anything else.
fn fillers(folder: &OwnedFd) -> Option<Vec<Pid>> {
    let mut pids = Vec::new();
    for entry in Dir::read_from(folder).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let name = std::str::from_utf8(name).ok()?;
            pids.push(Pid::from_raw(name.strip_prefix(TOP_PREFIX)?.parse().ok()?)?);
        }
    }
    Some(pids)
}

fn is_alive(pid: Pid) -> bool {
    // Another user's process may not be signalled, but is there.
    test_kill_process(pid) != Err(Errno::SRCH)
}

/// Whether it begins with a hash as those of store paths do: 32 digits of Nix's base 32, and a dash.
fn is_named_by_a_store_path(name: &[u8]) -> bool {
    let digit = |byte: &u8| b"0123456789abcdfghijklmnpqrsvwxyz".contains(byte);
    name.get(..32).is_some_and(|hash| hash.iter().all(digit)) && name.get(32) == Some(&b'-')
}

/// Removes from `parent` what ended processes have left. `false` when some of it could not be removed.
pub(super) fn sweep(parent: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut all = true;
    for entry in Dir::read_from(parent)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let gone = match is_other_name(name) {
            // Earlier versions had no folder around the tree, and no lock.
            Some(pid) if !is_alive(pid) => clear(parent, name, IfExists::Replace),
            Some(_) => true,
            None if !name.ends_with(FOLDER_SUFFIX) => true,
            None => match open(parent, name) {
                Ok(folder) if is_left_over(&folder, name, IfExists::RemoveLeftOver) => {
                    remove_left_over(parent, name, IfExists::RemoveLeftOver)
                }
                _ => true,
            },
        };
        all &= gone;
    }
    Ok(all)
}

/// `.STEM.tmp-PID-COUNTER`, with STEM cut so that all of it is a file name: where the usual name cannot be had.
fn other_name(stem: &[u8]) -> Vec<u8> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let end = format!(".tmp-{}-{count}", std::process::id());
    let mut len = stem.len().min(MAX_FILE_NAME - 1 - end.len());
    // Some file systems take only whole characters.
    while len < stem.len() && len > 0 && stem[len] & 0xc0 == 0x80 {
        len -= 1;
    }
    [b".", &stem[..len], end.as_bytes()].concat()
}

/// The process in a name of that kind.
fn is_other_name(name: &[u8]) -> Option<Pid> {
    let checkpoint = b".tmp-";
    let at = name
        .windows(checkpoint.len())
        .rposition(|part| part == checkpoint)?;
    let numbers = std::str::from_utf8(&name[at + checkpoint.len()..]).ok()?;
    let (pid, count) = numbers
        .split_once('-')
        .filter(|_| name[0] == b'.' && at > 0)?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(pid) || !is_number(count) {
        return None;
    }
    Pid::from_raw(pid.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::{self, File};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    const STORE_NAME: &str = "7rjj86a15146cq1d3qy068lml7n7ykzm-hello";

    /// A process that there is none of: the number is above the limit.
    const ENDED_PROCESS: &str = "ssh-substituter-8388607";

    fn made(parent: &Path, stem: &str, if_exists: IfExists) -> (String, Staging) {
        let parent = File::open(parent).unwrap();
        let staging = Staging::new(parent.as_fd(), stem.as_bytes(), if_exists).unwrap();
        let name = String::from_utf8(staging.name().to_vec()).unwrap();
        (name, staging)
    }

    #[test]
    fn other_names_are_new_and_fit() {
        for name in ["a".repeat(255), "é".repeat(127), "x".to_owned()] {
            let (first, second) = (other_name(name.as_bytes()), other_name(name.as_bytes()));
            assert_ne!(first, second);
            assert!(first.len() <= 255 && first[0] == b'.');
            assert!(is_other_name(&first).is_some(), "{first:?}");
            assert!(std::str::from_utf8(&first).unwrap().contains(".tmp-"));
        }
        assert!(other_name(&[0x80; 255]).starts_with(b"..tmp-"));
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
            assert_eq!(is_other_name(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_usual_name_is_one_that_collectors_spare() {
        let temp = tempfile::tempdir().unwrap();
        let (name, staging) = made(temp.path(), "x", IfExists::RemoveLeftOver);
        assert_eq!(name, "x.chroot");
        // Whoever comes while it is filled has another one.
        let (other, second) = made(temp.path(), "x", IfExists::Replace);
        assert!(is_other_name(other.as_bytes()).is_some(), "{other}");
        fs::create_dir(
            temp.path()
                .join(&name)
                .join(OsStr::from_bytes(staging.top())),
        )
        .unwrap();
        assert_eq!(made(temp.path(), "x", IfExists::Replace).0[..7], *".x.tmp-");
        assert!(temp.path().join(&name).exists());
        second.discard_empty();
        assert!(!temp.path().join(&other).exists());
        let (name, _) = made(temp.path(), &"y".repeat(250), IfExists::RemoveLeftOver);
        assert!(name.starts_with(".yyy"), "too long with its end");
    }

    #[test]
    fn what_ended_processes_left_goes_and_all_else_stays() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let left = [
            &*format!("a.chroot/{ENDED_PROCESS}/sub"),
            &*format!("{STORE_NAME}.chroot"),
            ".b.tmp-8388607-0/sub",
        ];
        let own = format!(".c.tmp-{}-0", std::process::id());
        let stays = ["d.chroot/etc", "e.chroot", &own, "f/sub"];
        for name in left.iter().chain(&stays) {
            fs::create_dir_all(at(name)).unwrap();
        }
        symlink("f", at("g.chroot")).unwrap();
        fs::write(at("h.chroot"), "").unwrap();
        let (name, filling) = made(temp.path(), "i", IfExists::RemoveLeftOver);
        fs::write(at(&name).join(OsStr::from_bytes(filling.top())), "").unwrap();
        let parent = File::open(temp.path()).unwrap();
        assert_eq!(sweep(parent.as_fd()), Ok(true));
        let mut names: Vec<_> = fs::read_dir(temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut expected = [
            "d.chroot", "e.chroot", &own, "f", "g.chroot", "h.chroot", &name,
        ];
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert!(at("f/sub").exists());
    }

    #[test]
    fn a_name_that_is_taken_is_taken_over_where_that_may_be() {
        for (inside, stays, goes) in [
            (Some(ENDED_PROCESS), true, true),
            (Some("etc"), false, true),
            (None, false, true),
        ] {
            for (if_exists, over) in [(IfExists::RemoveLeftOver, stays), (IfExists::Replace, goes)]
            {
                let temp = tempfile::tempdir().unwrap();
                fs::create_dir(temp.path().join("x.chroot")).unwrap();
                if let Some(inside) = inside {
                    fs::create_dir(temp.path().join("x.chroot").join(inside)).unwrap();
                }
                let (name, _staging) = made(temp.path(), "x", if_exists);
                assert_eq!(name == "x.chroot", over, "{inside:?} {if_exists:?}");
                let is_there =
                    inside.is_some_and(|inside| temp.path().join("x.chroot").join(inside).exists());
                assert_eq!(
                    is_there,
                    inside.is_some() && !over,
                    "{inside:?} {if_exists:?}"
                );
            }
        }
    }
}
