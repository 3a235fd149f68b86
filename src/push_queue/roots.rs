//! Roots of Nix's garbage collector for what is queued: indirect ones, that is a symlink of ours to the path, and a symlink
//! in `gcroots/auto` of the store to that one. Nix removes the second one by itself when the first is gone (Nix manual,
//! "Garbage Collector Roots"). Only who may write in `gcroots/auto` can have them: root, as a rule.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::model::StorePath;

const FOLDER: &str = "push-roots";

/// Where a store keeps indirect roots, below its root.
const AUTO: &str = "nix/var/nix/gcroots/auto";

/// How many hexadecimal digits of a digest tell stores apart.
const DIGITS: usize = 16;

#[derive(Debug)]
pub(super) struct Roots {
    folder: PathBuf,
}

impl Roots {
    pub(super) fn new(state: &Path) -> Self {
        let folder = state.join(FOLDER);
        Self { folder }
    }

    /// Makes a root for a path. Where that cannot be, the path is queued without one.
    pub(super) fn make(&self, store: &Path, path: &StorePath) {
        if let Err(error) = self.try_make(store, path) {
            log::debug!("no root of the collector for {path}: {error}");
        }
    }

    fn try_make(&self, store: &Path, path: &StorePath) -> io::Result<()> {
        let auto = store.join(AUTO);
        // Nix makes it with the first root.
        if let Some(folder) = auto.parent()
            && folder.is_dir()
        {
            exists_or(fs::create_dir(&auto))?;
        }
        if rustix::fs::access(&auto, rustix::fs::Access::WRITE_OK).is_err() {
            let text = format!("{} cannot be written", auto.display());
            return Err(io::Error::other(text));
        }
        let ours = self.link(store, path);
        if let Some(folder) = ours.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        exists_or(symlink(path.as_str(), &ours))?;
        exists_or(symlink(&ours, auto.join(indirect_name(&ours))))
    }

    /// Removes the root of a path, if it has one.
    pub(super) fn remove(&self, store: &Path, path: &StorePath) {
        remove(store, &self.link(store, path));
    }

    /// Removes the roots of all paths but these.
    pub(super) fn sweep(&self, wanted: &BTreeSet<(PathBuf, String)>) {
        let mut keep = BTreeSet::new();
        let mut stores = BTreeSet::from([PathBuf::from("/")]);
        for (store, path) in wanted {
            if let Ok(path) = StorePath::parse(path) {
                keep.insert(self.link(store, &path));
            }
            stores.insert(store.clone());
        }
        for folder in entries(&self.folder) {
            for link in entries(&folder) {
                if !keep.contains(&link) {
                    let of = |store: &&PathBuf| folder.ends_with(name_of(store));
                    let store = stores.iter().find(of);
                    remove(store.map_or(Path::new("/"), PathBuf::as_path), &link);
                }
            }
            // Fails while something is in it.
            let _ = fs::remove_dir(folder);
        }
    }

    /// Our link to a path.
    fn link(&self, store: &Path, path: &StorePath) -> PathBuf {
        self.folder.join(name_of(store)).join(path.base_name())
    }
}

/// What a store is called in the folder of the links.
fn name_of(store: &Path) -> String {
    digest(store)
}

/// What the link to this one is called in `auto`, where all users' links are.
fn indirect_name(ours: &Path) -> String {
    format!("ssh-substituter-{}", digest(ours))
}

fn digest(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    data_encoding::HEXLOWER.encode(&digest)[..DIGITS].to_owned()
}

fn remove(store: &Path, ours: &Path) {
    // Without ours the other one is stale, and Nix removes it.
    if fs::remove_file(ours).is_ok() {
        let _ = fs::remove_file(store.join(AUTO).join(indirect_name(ours)));
    }
}

fn exists_or(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
