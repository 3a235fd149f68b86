//! NARs of what stands on the disk, written here: to start `nix-store --dump` takes longer than most NARs do. That they are those of
//! Nix is proven by the tests of this support.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The NAR of a tree; nothing where none stands.
pub fn nar(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    if fs::symlink_metadata(path).is_ok() {
        words(&mut out, &["nix-archive-1"]);
        node(&mut out, path);
    }
    out
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn words(out: &mut Vec<u8>, words: &[&str]) {
    words.iter().for_each(|word| string(out, word.as_bytes()));
}

fn node(out: &mut Vec<u8>, path: &Path) {
    let kind = fs::symlink_metadata(path).expect("look at a file");
    words(out, &["(", "type"]);
    if kind.is_symlink() {
        let target = fs::read_link(path).expect("read a symlink");
        words(out, &["symlink", "target"]);
        string(out, target.as_os_str().as_bytes());
    } else if kind.is_dir() {
        words(out, &["directory"]);
        let entries = fs::read_dir(path).expect("read a folder");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("read an entry").file_name())
            .collect();
        // Byte by byte.
        names.sort();
        for name in names {
            words(out, &["entry", "(", "name"]);
            string(out, name.as_bytes());
            words(out, &["node"]);
            node(out, &path.join(name));
            words(out, &[")"]);
        }
    } else {
        words(out, &["regular"]);
        if kind.permissions().mode() & 0o100 != 0 {
            words(out, &["executable", ""]);
        }
        words(out, &["contents"]);
        string(out, &fs::read(path).expect("read a file"));
    }
    words(out, &[")"]);
}
