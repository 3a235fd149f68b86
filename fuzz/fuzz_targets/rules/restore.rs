//! Rules of restoring a NAR to disk.
//!
//! 1. Nothing outside of the destination changes, whatever comes.
//! 2. The destination appears only when the archive was complete and nothing followed it.
//! 3. What appears is what the archive holds, symlinks as they were.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ssh_substituter::transfer::unpack::Unpacker;

use super::pieces::{Random, cuts};
use super::reading::{End, OwnedEvent, Reading};

/// Something in a file system: its mode, and what is in it.
#[derive(Debug, PartialEq)]
enum Node {
    Directory(u32),
    File(u32, Vec<u8>),
    Symlink(PathBuf),
}

type Nodes = BTreeMap<PathBuf, Node>;

/// All rules, for any bytes and what the decoder read of them.
pub fn check(input: &[u8], whole: &Reading) {
    // Making and removing files takes a hundred times as long as all else: of what is broken, some are enough.
    let broken = whole.end != End::Complete;
    if whole.events.is_empty() || (broken && Random::of(input).below(40) > 0) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let yard = dir.path().join("yard");
    fs::create_dir(&yard).unwrap();
    for folder in [dir.path(), &yard] {
        fs::write(folder.join("a"), "beside").unwrap();
        fs::create_dir(folder.join("d")).unwrap();
        symlink("../a", folder.join("s")).unwrap();
    }
    let before = nodes(dir.path());
    let dest = yard.join("dest");
    let done = restore(input, &dest);
    let restored = nodes(&dest);
    let mut after = nodes(dir.path());
    after.retain(|path, _| !path.starts_with("yard/dest"));
    assert_eq!(
        after, before,
        "something beside the destination has changed"
    );
    if done {
        assert_eq!(whole.end, End::Complete);
        assert_eq!(whole.read, input.len());
        assert_eq!(restored, expected(&whole.events));
    } else {
        assert!(restored.is_empty(), "an incomplete tree has its name");
        // Elsewhere file systems refuse names that are fine here.
        let fine = whole.end == End::Complete && whole.read == input.len();
        assert!(
            !fine || !cfg!(target_os = "linux"),
            "refuses a proper archive"
        );
    }
    open_up(dir.path());
}

/// Whether the destination was made.
fn restore(input: &[u8], dest: &Path) -> bool {
    let mut unpacker = Unpacker::new(dest, u64::MAX).unwrap();
    let [_, smallest, anywhere] = cuts(input);
    let pieces = match Random::of(input).below(4) {
        0 => smallest,
        _ => anywhere,
    };
    for piece in pieces {
        if unpacker.write(piece).is_err() {
            assert!(unpacker.write(b"").is_err() && !unpacker.is_complete());
            break;
        }
    }
    let complete = unpacker.is_complete();
    let done = unpacker.commit().is_ok();
    assert_eq!(done, complete);
    done
}

/// Everything at and below `top`, by its path from there. No symlink is followed.
fn nodes(top: &Path) -> Nodes {
    let (mut found, mut pending) = (Nodes::new(), vec![PathBuf::new()]);
    while let Some(path) = pending.pop() {
        // Joining an empty path would add a slash.
        let full = match path.as_os_str().is_empty() {
            true => top.to_owned(),
            false => top.join(&path),
        };
        let Ok(meta) = full.symlink_metadata() else {
            continue;
        };
        let mode = meta.mode() & 0o7777;
        let node = if meta.is_dir() {
            let entries = fs::read_dir(&full).unwrap();
            pending.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
            Node::Directory(mode)
        } else if meta.is_symlink() {
            Node::Symlink(fs::read_link(&full).unwrap())
        } else {
            Node::File(mode, fs::read(&full).unwrap())
        };
        found.insert(path, node);
    }
    found
}

/// What should be there.
fn expected(events: &[OwnedEvent]) -> Nodes {
    let (mut nodes, mut path, mut open) = (Nodes::new(), PathBuf::new(), 0);
    for event in events {
        match event {
            OwnedEvent::Directory => {
                nodes.insert(path.clone(), Node::Directory(0o555));
                open += 1;
            }
            OwnedEvent::Entry(name) => path.push(OsStr::from_bytes(name)),
            OwnedEvent::File { executable, .. } => {
                let mode = if *executable { 0o555 } else { 0o444 };
                nodes.insert(path.clone(), Node::File(mode, Vec::new()));
            }
            OwnedEvent::Contents(bytes) => match nodes.get_mut(&path) {
                Some(Node::File(_, contents)) => contents.clone_from(bytes),
                other => panic!("contents of {other:?}"),
            },
            OwnedEvent::Symlink(target) => {
                let target = PathBuf::from(OsStr::from_bytes(target));
                nodes.insert(path.clone(), Node::Symlink(target));
            }
            OwnedEvent::FileEnd | OwnedEvent::End => {}
            OwnedEvent::DirectoryEnd => open -= 1,
        }
        let closes = matches!(
            event,
            OwnedEvent::FileEnd | OwnedEvent::Symlink(_) | OwnedEvent::DirectoryEnd
        );
        if closes && open > 0 {
            path.pop();
        }
    }
    nodes
}

/// Makes it removable for those who are not root.
fn open_up(dir: &Path) {
    fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            open_up(&entry.path());
        }
    }
}
