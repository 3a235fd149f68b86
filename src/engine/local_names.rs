//! The names of paths that the store of this machine knows: of those that are there, and of what its derivations build.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::config::Config;
use crate::local_store::{LocalStore, StoreLayout};
use crate::model::{HashPart, StorePath};
use crate::resolver::NameSource;

/// Looks into the store of this machine, and into those of `delta-base`.
pub struct LocalNames {
    stores: Vec<Mutex<Option<LocalStore>>>,
    /// The folders that the stores are below.
    roots: Vec<PathBuf>,
    store_dir: String,
}

impl LocalNames {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut roots = vec![PathBuf::from("/")];
        roots.extend(config.delta_bases.iter().cloned());
        Self {
            stores: roots.iter().map(|_| Mutex::default()).collect(),
            roots,
            store_dir: config.store_dir.clone(),
        }
    }

    fn open(&self, root: &Path) -> Option<LocalStore> {
        let layout = StoreLayout::with_store_dir(&self.store_dir);
        let store = LocalStore::open_with(root, layout);
        // Most machines without Nix have none.
        store.inspect_err(|error| log::debug!("{error}")).ok()
    }
}

impl NameSource for LocalNames {
    fn names(&self, hash: HashPart) -> Vec<StorePath> {
        for (store, root) in self.stores.iter().zip(&self.roots) {
            // Threads take turns at a database anyway.
            let mut store = store.lock();
            if store.is_none() {
                *store = self.open(root);
            }
            let Some(open) = &*store else {
                continue;
            };
            match open.known_with_hash(&[hash]) {
                Ok(names) if names.is_empty() => {}
                Ok(names) => return names,
                Err(error) => {
                    log::debug!("{error}");
                    *store = None;
                }
            }
        }
        Vec::new()
    }
}
