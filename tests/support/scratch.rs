//! Temporary folders that can hold a Nix store.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary folder that other users can look into; removed on drop, with the read-only folders in it.
pub struct Scratch {
    dir: TempDir,
    path: PathBuf,
}

impl Scratch {
    pub fn new() -> Self {
        #[cfg(test)]
        super::watchdog::start();
        // Short, since paths of sockets are limited to about 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix("sshsub")
            .tempdir()
            .expect("make a temporary folder");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))
            .expect("open up a temporary folder");
        // Nix refuses a store under a symlink, and TMPDIR may be one.
        let path = dir
            .path()
            .canonicalize()
            .expect("resolve a temporary folder");
        Self { dir, path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of that name, making its folders; returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().expect("a file in a folder")).expect("make a folder");
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }

    /// Makes a folder of that name; returns its path.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).expect("make a folder");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        make_writable(&self.path);
    }
}

/// Paths in a Nix store are read-only folders: only root could remove what is in them.
fn make_writable(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o755));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}
