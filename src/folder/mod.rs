//! Private folders: what must be true of a folder, of those above it and of a file in it, so that no other
//! user can replace what is ours; which private folders a user has; and [locks](lock) between processes.
//!
//! That only we can write in a folder is not enough: a user who can write in a folder *above* it can move
//! ours away and put another one there. So every folder on the path counts, symbolic links followed: each
//! belongs to root or to us, and others can write in it only where the sticky bit keeps them from files of
//! other users (as in `/tmp`). The group may write where it is the user's own group (same number as the user,
//! and the group of the process), as on distributions that make new files writable for it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

pub mod lock;
mod private;
mod socket_id;

pub use private::{Environment, FolderError, Purpose};
pub use socket_id::SocketId;

/// `S_ISVTX`
const STICKY: u32 = 0o1000;

/// Most symbolic links on one path; Linux follows as many.
const MAX_LINKS: usize = 40;

/// Whether users other than `uid` and root can write in a folder of this kind.
#[must_use]
pub fn is_writable_by_others(meta: &Metadata, uid: u32) -> bool {
    let own_group = meta.gid() == uid && rustix::process::getegid().as_raw() == uid;
    let others = if own_group { 0o002 } else { 0o022 };
    meta.mode() & others != 0
}

/// The first folder above `path` in which another user than `uid` and root could replace our folder; `path`
/// itself is not checked. `None` when the path is safe.
///
/// # Errors
/// When the path cannot be followed to its end.
pub fn unsafe_ancestor(path: &Path, uid: u32) -> io::Result<Option<PathBuf>> {
    let absolute = std::path::absolute(path)?;
    let Some(parent) = absolute.parent() else {
        return Ok(None);
    };
    let mut links = 0;
    // The components that remain, the next one last.
    let mut remaining: Vec<PathBuf> = components_reversed(parent);
    let mut at = PathBuf::from("/");
    let others = OtherUsers::new(uid)?;
    loop {
        if others.can_replace_in(&fs::symlink_metadata(&at)?) {
            return Ok(Some(at));
        }
        let Some(part) = remaining.pop() else {
            return Ok(None);
        };
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let meta = fs::symlink_metadata(&next)?;
        if !meta.file_type().is_symlink() {
            at = next;
            continue;
        }
        // The sticky bit does not keep a user from replacing a link of their own.
        if others.own(&meta) {
            return Ok(Some(next));
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::other("too many symbolic links"));
        }
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        remaining.extend(components_reversed(&target));
    }
}

/// The components of a path but `/` and `.`, the first one last.
fn components_reversed(path: &Path) -> Vec<PathBuf> {
    let part = |component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    };
    path.components().rev().filter_map(part).collect()
}

/// All users but root and us.
struct OtherUsers {
    uid: u32,
    /// The owner of `/`: root, as it appears inside a user namespace that has no root.
    root: u32,
}

impl OtherUsers {
    fn new(uid: u32) -> io::Result<Self> {
        let root = fs::metadata("/")?.uid();
        Ok(Self { uid, root })
    }

    /// Whether it belongs to one of them.
    fn own(&self, meta: &Metadata) -> bool {
        ![0, self.uid, self.root].contains(&meta.uid())
    }

    /// Whether one of them can replace what is in this folder.
    fn can_replace_in(&self, meta: &Metadata) -> bool {
        let open = is_writable_by_others(meta, self.uid) && meta.mode() & STICKY == 0;
        open || self.own(meta)
    }
}

/// Whether this is a regular file of `uid`'s, and no link. Anything else under a name of ours is not used.
#[must_use]
pub fn is_own_file(meta: &Metadata, uid: u32) -> bool {
    meta.file_type().is_file() && meta.uid() == uid
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::lock::open_lock;
    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn each_folder_above_counts() {
        let temp = tempfile::tempdir().unwrap();
        let temp_path = temp.path().canonicalize().unwrap();
        let (outer, inner) = (temp_path.join("a"), temp_path.join("a/b/c"));
        DirBuilder::new().recursive(true).create(&inner).unwrap();
        let found = || unsafe_ancestor(&inner, uid()).unwrap();
        assert_eq!(found(), None);
        for (mode, safe) in [
            (0o777, false),
            (0o757, false),
            (0o1777, true),
            (0o755, true),
            (0o700, true),
        ] {
            set(&outer, mode);
            assert_eq!(found(), (!safe).then(|| outer.clone()), "{mode:o}");
        }
        // What is below is somebody else's concern.
        set(&inner, 0o777);
        assert_eq!(found(), None);
    }

    #[test]
    fn the_group_may_write_only_where_it_is_the_users_own() {
        let temp = tempfile::tempdir().unwrap();
        set(temp.path(), 0o770);
        let folder = temp.path().join("x");
        let own = uid() == rustix::process::getegid().as_raw();
        let safe = |uid| unsafe_ancestor(&folder, uid).unwrap().is_none();
        assert_eq!(safe(uid()), own);
        if uid() == 0 {
            chown(temp.path(), None, Some(4)).unwrap();
            assert!(!safe(0));
            chown(temp.path(), Some(65_534), Some(0)).unwrap();
            set(temp.path(), 0o700);
            assert!(!safe(0), "another user's");
        }
    }

    #[test]
    fn links_are_followed_and_what_they_lie_in_counts() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().canonicalize().unwrap();
        for name in ["open", "closed"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        set(&path.join("open"), 0o777);
        symlink("../closed", path.join("open/link")).unwrap();
        symlink(path.join("open"), path.join("closed/link")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        let found = |name: &str| unsafe_ancestor(&path.join(name), uid());
        let open = Some(path.join("open"));
        assert_eq!(found("closed/x").unwrap(), None);
        // The link itself can be replaced; and what it leads to can be open.
        assert_eq!(found("open/link/x").unwrap(), open);
        assert_eq!(found("closed/link/x").unwrap(), open);
        assert!(found("loop/x").is_err());
        // Where everybody may put links, a stranger's leads nowhere.
        set(&path.join("open"), 0o1777);
        assert_eq!(found("open/link/x").unwrap(), None);
        if uid() == 0 {
            let link = path.join("open/link");
            std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
            assert_eq!(found("open/link/x").unwrap(), Some(link));
        }
        assert!(found("missing/x").is_err());
    }

    #[test]
    fn a_lock_follows_no_link_and_keeps_what_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let (file, link) = (temp.path().join("file"), temp.path().join("link"));
        fs::write(&file, "mine").unwrap();
        open_lock(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        symlink(&file, &link).unwrap();
        assert!(open_lock(&link).is_err());
        symlink("/nowhere/new", temp.path().join("dangling")).unwrap();
        assert!(open_lock(&temp.path().join("dangling")).is_err());
        let meta = |path: &Path| fs::symlink_metadata(path).unwrap();
        assert!(is_own_file(&meta(&file), uid()));
        assert!(!is_own_file(&meta(&file), uid() + 1));
        assert!(!is_own_file(&meta(&link), uid()));
        assert!(!is_own_file(&meta(temp.path()), uid()));
    }
}
