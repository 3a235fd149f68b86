//! A real local Nix store, read only: questions to its database, dumps of its paths and parts of them.
//!
//! ```text
//! ROOT/nix/var/nix/db/schema      "10"
//! ROOT/nix/var/nix/db/db.sqlite   ValidPaths, Refs, DerivationOutputs
//! ROOT/nix/store/HASH-NAME        the files
//! ```
//!
//! ROOT is that of Nix's `local?root=ROOT`: the paths in the database and in all answers are
//! logical ones (`/nix/store/…`), the files lie below ROOT.
//!
//! Each question sees one state of the database, whatever others write meanwhile. Nothing is
//! locked against garbage collection: a path can vanish between a question and its dump, and
//! during the dump, which is then an error in the middle (see [`Dump`]).
//!
//! Everything here blocks: call it where blocking is allowed.

mod case_hack;
mod db;
mod directory;
mod dump;
mod error;
mod layout;
mod query;
mod segment;

use std::path::{Path, PathBuf};

use crate::model::{HashPart, PathInfo, StorePath};
use db::Database;

pub use dump::{CHUNK, Dump};
pub use error::LocalStoreError;
pub use layout::LayoutLimits;
pub use segment::{PathFiles, ReadError};

/// The store schema that is understood; that of Nix since 2.0.
pub const SCHEMA: u32 = 10;

/// Where a store keeps things, as logical paths: relative to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLayout {
    /// What store paths begin with; `/nix/store` as a rule.
    pub store_dir: String,
    /// Where the database folder is; `/nix/var/nix` as a rule.
    pub state_dir: String,
}

impl StoreLayout {
    /// The usual layout, with another store directory.
    #[must_use]
    pub fn with_store_dir(store_dir: &str) -> Self {
        Self {
            store_dir: store_dir.to_owned(),
            ..Self::default()
        }
    }
}

impl Default for StoreLayout {
    fn default() -> Self {
        Self {
            store_dir: "/nix/store".to_owned(),
            state_dir: "/nix/var/nix".to_owned(),
        }
    }
}

/// An open store. Threads may share it; they take turns at its database.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    files: PathBuf,
    store_dir: String,
    db: Database,
}

impl LocalStore {
    /// Opens the store at `root` (`/` for that of the system) with the usual layout.
    ///
    /// # Errors
    /// When there is none, its schema is unknown, or its database cannot be read.
    pub fn open(root: &Path) -> Result<Self, LocalStoreError> {
        Self::open_with(root, StoreLayout::default())
    }

    /// Opens a store with a layout of its own.
    ///
    /// # Errors
    /// As [`LocalStore::open`].
    pub fn open_with(root: &Path, layout: StoreLayout) -> Result<Self, LocalStoreError> {
        let root = std::path::absolute(root).map_err(|source| LocalStoreError::Io {
            action: "find",
            path: root.to_owned(),
            source,
        })?;
        let below = |logical: &str| root.join(logical.trim_start_matches('/'));
        let files = below(&layout.store_dir);
        let folder = below(&layout.state_dir).join("db");
        check_schema(&folder.join("schema"))?;
        let db = Database::new(folder.join("db.sqlite"));
        db.ask("find the valid paths", query::probe)?;
        Ok(Self {
            root,
            files,
            store_dir: layout.store_dir,
            db,
        })
    }

    /// Those of `paths` that are valid, sorted, each once.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn query_valid_paths(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, LocalStoreError> {
        self.db
            .ask("find valid paths", |db| query::valid_paths(db, paths))
    }

    /// The infos of those of `paths` that are valid, sorted, each once. As in the replies of
    /// `nix-store --serve`, references and signatures are sorted and the download size is the NAR
    /// size. A path whose files are gone has its info still. One of which the database holds nonsense
    /// is left out, and logged.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn query_path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, LocalStoreError> {
        let (infos, left_out) = self
            .db
            .ask("find path infos", |db| query::path_infos(db, paths))?;
        log_left_out(&left_out);
        Ok(infos)
    }

    /// `paths` and all that they refer to, sorted; with `include_outputs` also the valid outputs
    /// of every derivation among them, and what those refer to. What the database holds that is no
    /// store path is left out, and logged.
    ///
    /// # Errors
    /// [`LocalStoreError::NotValid`] when one of `paths` is not valid (as in Nix); when the
    /// database cannot be read.
    pub fn query_closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, LocalStoreError> {
        let (closure, left_out) = self.db.ask("find a closure", |db| {
            query::closure(db, paths, include_outputs, &self.root)
        })?;
        log_left_out(&left_out);
        Ok(closure)
    }

    /// The valid outputs of a derivation; all of them if none is valid. Nothing of one that is not valid itself, or whose
    /// outputs are not known before it is built.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn outputs(&self, derivation: &StorePath) -> Result<Vec<StorePath>, LocalStoreError> {
        let find = |db: &_| query::outputs(db, derivation);
        let mut outputs = self.db.ask("find the outputs of a derivation", find)?;
        if outputs.iter().any(|(_, is_valid)| *is_valid) {
            outputs.retain(|(_, is_valid)| *is_valid);
        }
        Ok(outputs.into_iter().map(|(path, _)| path).collect())
    }

    /// The valid paths that have one of these hash parts, sorted.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn valid_with_hash(&self, hashes: &[HashPart]) -> Result<Vec<StorePath>, LocalStoreError> {
        let dir = &self.store_dir;
        self.db.ask("find paths by their hash parts", |db| {
            query::with_hash(db, dir, hashes, query::VALID)
        })
    }

    /// The same of valid paths and of the outputs of valid derivations, there or not: what Nix builds here it knows by name
    /// beforehand.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn known_with_hash(&self, hashes: &[HashPart]) -> Result<Vec<StorePath>, LocalStoreError> {
        let dir = &self.store_dir;
        self.db.ask("find names by hash parts", |db| {
            query::with_hash(db, dir, hashes, query::KNOWN)
        })
    }

    /// All valid paths, those that were registered last first. What the database holds that is no store path is left
    /// out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn all_paths(&self) -> Result<Vec<StorePath>, LocalStoreError> {
        self.db.ask("list the valid paths", query::all_paths)
    }

    /// Begins the dump of a path whose recorded NAR size the caller knows already; 0 when it is unknown.
    ///
    /// # Errors
    /// When the store's folder cannot be read. Errors in `path`'s own files come with the first chunk.
    pub fn dump(&self, path: &StorePath, size: u64) -> Result<Dump, LocalStoreError> {
        Dump::of_files(&self.files, path, size)
    }

    /// The recorded NAR size of a valid path, 0 when none is recorded.
    fn nar_size(&self, path: &StorePath) -> Result<u64, LocalStoreError> {
        let size = self.db.ask("find a path", |db| query::nar_size(db, path))?;
        size.ok_or_else(|| LocalStoreError::NotValid {
            path: path.clone(),
            root: self.root.clone(),
        })
    }
}

/// The first at length: there may be as many as the store has paths.
fn log_left_out(left_out: &[LocalStoreError]) {
    if let Some(first) = left_out.first() {
        log::warn!("{first}: that path is left out");
    }
    for error in left_out.iter().skip(1) {
        log::debug!("{error}: that path is left out");
    }
}

fn check_schema(path: &Path) -> Result<(), LocalStoreError> {
    let text = std::fs::read(path).map_err(|source| LocalStoreError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim();
    if text.parse() == Ok(SCHEMA) {
        return Ok(());
    }
    Err(LocalStoreError::Schema {
        path: path.to_owned(),
        expected: SCHEMA,
        got: text.chars().take(100).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Dump, LocalStore, LocalStoreError};

    #[test]
    fn threads_may_share_a_store_and_pass_a_dump_on() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<LocalStore>();
        shared::<Dump>();
        shared::<Result<(), LocalStoreError>>();
    }
}
