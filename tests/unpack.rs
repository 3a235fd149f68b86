//! What is restored to disk, compared with what a real Nix makes of the same archive.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ssh_substituter::transfer::unpack::Unpacker;

/// The user that a test goes on as when it was started as root: any but root will do.
const NOBODY: u32 = 65534;
/// Where the part of a test that runs in a process of its own finds its directory.
const DIR: &str = "SSH_SUBSTITUTER_TEST_DIR";

fn dump(path: &Path) -> Vec<u8> {
    let out = Command::new("nix-store")
        .arg("--dump")
        .arg(path)
        .output()
        .expect("these tests need nix-store");
    assert!(out.status.success(), "{out:?}");
    out.stdout
}

fn unpack(nar: &[u8], dest: &Path, piece: usize) {
    let mut unpacker = Unpacker::new(dest, nar.len() as u64).unwrap();
    for piece in nar.chunks(piece) {
        unpacker.write(piece).unwrap();
    }
    unpacker.commit().unwrap();
}

/// A tree of everything that a NAR can hold, odd names and all.
fn odd_tree(dir: &Path) -> PathBuf {
    let top = dir.join("odd");
    fs::create_dir(&top).unwrap();
    let path = |name: &[u8]| top.join(OsStr::from_bytes(name));
    for name in [
        &b"plain"[..],
        b" ",
        b"new\nline",
        b"\xff\xfe not UTF-8",
        b"\x1b[31mred",
        "é".as_bytes(),
        "e\u{301}".as_bytes(),
        b"-rf",
        b"a:b\\c*?",
        b"...",
        b".dest.tmp-1-1",
        &[b'n'; 255],
    ] {
        fs::write(path(name), name.repeat(100)).unwrap();
    }
    fs::write(path(b"empty"), "").unwrap();
    for size in [1, 7, 8, 9, 65535, 65536, 65537, 300_000] {
        fs::write(path(format!("size{size}").as_bytes()), vec![b's'; size]).unwrap();
    }
    fs::write(path(b"tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(path(b"tool"), PermissionsExt::from_mode(0o700)).unwrap();
    fs::create_dir(path(b"none")).unwrap();
    let deep = path(b"d/d/d/d/d/d/d/d/d/d/d/d");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("leaf"), "leaf").unwrap();
    for (name, target) in [
        ("dangling", "nowhere/at all"),
        ("absolute", "/etc/passwd"),
        ("up", "../.."),
        ("dir", "none"),
        ("long", &"t".repeat(4000)[..]),
    ] {
        symlink(target, path(name.as_bytes())).unwrap();
    }
    top
}

/// Path, type and mode, size and time of everything below `top`.
fn listing(top: &Path) -> Vec<(PathBuf, u32, u64, i64, i64)> {
    let mut found = Vec::new();
    let mut todo = vec![top.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let name = path.strip_prefix(top).unwrap().to_owned();
        found.push((name, meta.mode(), size, meta.mtime(), meta.mtime_nsec()));
    }
    found.sort();
    found
}

#[test]
fn the_result_dumps_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let nar = dump(&odd_tree(dir.path()));
    for piece in [1, 333, 4096, 65536, 1 << 20] {
        let dest = dir.path().join(format!("dest{piece}"));
        unpack(&nar, &dest, piece);
        assert!(dump(&dest) == nar, "in pieces of {piece}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6);
}

#[test]
fn the_result_is_that_of_nix_restoring_it() {
    let dir = tempfile::tempdir().unwrap();
    let nar = dump(&odd_tree(dir.path()));
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    unpack(&nar, &ours, 8192);
    let mut nix = Command::new("nix-store")
        .arg("--restore")
        .arg(&theirs)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    nix.stdin.take().unwrap().write_all(&nar).unwrap();
    assert!(nix.wait().unwrap().success());
    assert!(dump(&ours) == dump(&theirs));
}

#[test]
fn modes_and_times_are_those_of_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let tree = odd_tree(dir.path());
    let ours = dir.path().join("ours");
    unpack(&dump(&tree), &ours, 8192);

    let nix = dir.path().join("nix");
    let added = Command::new("nix-store")
        .arg("--add")
        .arg(&tree)
        .env("NIX_STORE_DIR", nix.join("store"))
        .env("NIX_STATE_DIR", nix.join("var"))
        .env("NIX_LOG_DIR", nix.join("log"))
        .env("NIX_CONF_DIR", nix.join("etc"))
        .env("NIX_REMOTE", "local")
        .env("HOME", &nix)
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    let theirs = PathBuf::from(String::from_utf8(added.stdout).unwrap().trim_end());
    assert!(theirs.starts_with(&nix), "{theirs:?}");

    let (ours, theirs) = (listing(&ours), listing(&theirs));
    assert!(ours.len() > 40);
    assert_eq!(ours, theirs);
}

/// Runs the ignored test `name` in a process of its own, never as root, on a directory that it
/// may write to.
fn alone(name: &str, dir: &Path) {
    let root = rustix::process::geteuid().is_root();
    let mut exe = std::env::current_exe().unwrap();
    if root {
        // The build directory may be out of the other user's reach.
        let copy = dir.join("test");
        // By another process: a program that is open for writing anywhere cannot be started.
        let copied = Command::new("cp").arg(&exe).arg(&copy).status();
        assert!(copied.unwrap().success());
        exe = copy;
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut child = Command::new(exe);
    child
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env("HOME", dir)
        .current_dir(dir);
    if root {
        child.uid(NOBODY).gid(NOBODY);
    }
    let out = child.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{out:?}");
    assert!(text.contains("1 passed"), "{text}");
}

fn own_dir() -> PathBuf {
    let dir = std::env::var_os(DIR).expect("started by another test");
    assert!(!rustix::process::geteuid().is_root());
    dir.into()
}

/// What is in `dir`, but for the copy of this program and the original tree.
fn left(dir: &Path) -> Vec<PathBuf> {
    let known = [dir.join("test"), dir.join("odd")];
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !known.contains(path))
        .collect()
}

#[test]
fn errors_leave_nothing_behind_without_privileges() {
    let dir = tempfile::tempdir().unwrap();
    alone("errors_leave_nothing_behind", dir.path());
}

#[test]
#[ignore = "run by errors_leave_nothing_behind_without_privileges"]
fn errors_leave_nothing_behind() {
    let dir = own_dir();
    let nar = dump(&odd_tree(&dir));
    let dest = dir.join("dest");
    // Cut in many places: by then directories that nobody may write to are there already.
    for end in (0..nar.len()).step_by(nar.len() / 97) {
        let mut unpacker = Unpacker::new(&dest, nar.len() as u64).unwrap();
        unpacker.write(&nar[..end]).unwrap();
        drop(unpacker);
        assert_eq!(left(&dir), [] as [PathBuf; 0], "cut at {end}");
    }
    // Complete and then refused.
    let mut unpacker = Unpacker::new(&dest, nar.len() as u64).unwrap();
    unpacker.write(&nar).unwrap();
    fs::create_dir(&dest).unwrap();
    unpacker.commit().unwrap_err();
    assert_eq!(left(&dir), std::slice::from_ref(&dest));
    assert_eq!(fs::read_dir(&dest).unwrap().count(), 0);
    fs::remove_dir(&dest).unwrap();
    // A directory that does not let us in.
    fs::create_dir(dir.join("closed")).unwrap();
    fs::set_permissions(dir.join("closed"), PermissionsExt::from_mode(0o555)).unwrap();
    let mut unpacker = Unpacker::new(&dir.join("closed/dest"), nar.len() as u64).unwrap();
    let error = unpacker.write(&nar).unwrap_err();
    assert!(error.to_string().starts_with("cannot create directory \""));
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("denied"), "{source}");
}

#[test]
fn the_umask_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    alone("under_any_umask", dir.path());
}

#[test]
#[ignore = "run by the_umask_does_not_matter"]
fn under_any_umask() {
    let dir = own_dir();
    let nar = dump(&odd_tree(&dir));
    let mut listings = Vec::new();
    for mask in [0o000, 0o022, 0o077, 0o777] {
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        let dest = dir.join(format!("dest{mask}"));
        unpack(&nar, &dest, 8192);
        let mut unpacker = Unpacker::new(&dir.join("cut"), nar.len() as u64).unwrap();
        unpacker.write(&nar[..nar.len() / 2]).unwrap();
        drop(unpacker);
        rustix::process::umask(before);
        assert!(dump(&dest) == nar);
        listings.push(listing(&dest));
    }
    assert!(listings.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(left(&dir).len(), listings.len());
}
