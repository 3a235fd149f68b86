//! `--to DIR`: a folder laid out as a chroot store.
//!
//! ```text
//! DIR/nix/store/HASH-NAME         the paths
//! DIR/nix-path-registration       what nix-store --load-db reads; the name that NixOS gives it on its images
//! ```
//!
//! A path gets its name when it has verified, in one step. What counts as being there is registered, or has the hash that
//! a host reports; both ways its content is hashed again by each run, and replaced where it is wrong. A path is registered
//! when all that it refers to is, unless only the paths themselves are wanted.

mod check;
mod registration;

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::Receiver;

use super::blocking_sink::{BlockingSink, blocking};
use super::folder_lock::FolderLock;
use super::{Destination, Incoming, Present, ReferencesFirst};
use crate::commands::get::error::{GetError, io_error};
use crate::model::{NarHash, PathInfo, StorePath};
use crate::transfer::unpack::{self, Unpacker};
use crate::transfer::{NarSink, Piece};
use check::ExpectedContent;
use registration::{Entry, Registration};

/// Paths that are received at a time. Each has a thread meanwhile, and up to 4 MiB of pieces.
const AT_ONCE: usize = 16;

/// The registration's name.
const REGISTRATION: &str = "nix-path-registration";

/// A folder, with what is known of it.
pub(in crate::commands::get) struct Folder {
    /// Where the registration is.
    file: PathBuf,
    /// Where the paths are.
    store: PathBuf,
    /// Whether paths may be registered without their references.
    closure: bool,
    state: Arc<Mutex<FolderState>>,
    _lock: Option<FolderLock>,
}

#[derive(Default)]
struct FolderState {
    registration: Registration,
    /// Hash and size of the paths that have been received.
    contents: HashMap<StorePath, (NarHash, u64)>,
    /// Whether the registration on disk is out of date.
    changed: bool,
    /// Paths that are there without being registered.
    adopted: Vec<Arc<PathInfo>>,
    /// Paths that were registered and are not right.
    dropped: HashSet<StorePath>,
}

impl Folder {
    /// Opens a folder for paths in `store_dir`; it is made where there is none, except with `dry_run`.
    pub(in crate::commands::get) async fn open(
        folder: &Path,
        store_dir: &str,
        closure: bool,
        dry_run: bool,
    ) -> Result<Self, GetError> {
        let folder = std::path::absolute(folder).map_err(io_error("find", folder))?;
        let store = folder.join(store_dir.trim_start_matches('/'));
        let lock = if dry_run {
            None
        } else {
            fs::create_dir_all(&store).map_err(io_error("make", &store))?;
            Some(FolderLock::acquire(&folder).await?)
        };
        let file = folder.join(REGISTRATION);
        let (registration, from) = (file.clone(), store.clone());
        let registration = blocking(move || {
            if !dry_run {
                // Left by a run that was killed.
                unpack::sweep(&from);
            }
            Registration::read(&registration)
        });
        let state = FolderState {
            registration: registration.await?,
            ..FolderState::default()
        };
        Ok(Self {
            file,
            store,
            closure,
            state: Arc::new(Mutex::new(state)),
            _lock: lock,
        })
    }
}

#[async_trait]
impl Destination for Folder {
    fn references_first(&self) -> ReferencesFirst {
        ReferencesFirst::Registration
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    fn folder(&self) -> Option<&Path> {
        self.file.parent()
    }

    async fn present(&self, paths: &[StorePath]) -> Result<Vec<Present>, GetError> {
        let expected: Vec<_> = {
            let state = self.state.lock();
            let entry = |path: &StorePath| {
                let entry = state.registration.0.get(path)?;
                Some(ExpectedContent::new(path, entry.hash, entry.size))
            };
            paths.iter().filter_map(entry).collect()
        };
        let asked: Vec<_> = expected
            .iter()
            .map(|content| content.path.clone())
            .collect();
        let right = check::find_right(&self.store, expected).await;
        let mut state = self.state.lock();
        let mut present = Vec::new();
        for path in asked {
            if !right.contains(&path) {
                log::info!("{path} is registered, but it is missing or has changed");
                state.registration.0.remove(&path);
                state.dropped.insert(path);
            } else if let Some(entry) = state.registration.0.get(&path) {
                let references = entry.references.clone();
                present.push(Present { path, references });
            }
        }
        Ok(present)
    }

    async fn find_unregistered(
        &self,
        infos: &[Arc<PathInfo>],
    ) -> Result<HashSet<StorePath>, GetError> {
        let content = |info: &Arc<PathInfo>| {
            let there = fs::symlink_metadata(self.store.join(info.path.base_name()));
            let hash = info.nar_hash.filter(|_| there.is_ok())?;
            Some(ExpectedContent::new(&info.path, hash, info.nar_size))
        };
        let expected = infos.iter().filter_map(content).collect();
        let right = check::find_right(&self.store, expected).await;
        let adopted = infos.iter().filter(|info| right.contains(&info.path));
        self.state.lock().adopted = adopted.cloned().collect();
        Ok(right)
    }

    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError> {
        let dest = self.store.join(info.path.base_name());
        let limit = match info.nar_size {
            0 => u64::MAX,
            size => size,
        };
        let known = info.nar_hash;
        let work = move |pieces| restore(&dest, limit, known, pieces);
        Ok(Box::new(Restore {
            sink: BlockingSink::new(&info.path, work),
            path: info.path.clone(),
            state: self.state.clone(),
        }))
    }

    async fn register(&self, info: &Arc<PathInfo>) -> Result<(), GetError> {
        self.state.lock().register(info);
        Ok(())
    }

    async fn end(&self) -> Result<(), GetError> {
        let (state, file, closure) = (self.state.clone(), self.file.clone(), self.closure);
        blocking(move || {
            let mut state = state.lock();
            state.register_adopted(closure);
            state.drop_referrers();
            match state.changed {
                true => state.registration.write(&file),
                false => Ok(()),
            }
        })
        .await
    }
}

impl FolderState {
    fn register(&mut self, info: &PathInfo) {
        let reported = info.nar_hash.map(|hash| (hash, info.nar_size));
        let Some((hash, size)) = self.contents.remove(&info.path).or(reported) else {
            return;
        };
        let entry = Entry {
            hash,
            size,
            deriver: info.deriver.clone(),
            references: info.references.clone(),
        };
        self.registration.0.insert(info.path.clone(), entry);
        self.changed = true;
    }

    /// Unregisters what refers to a path that was dropped and not received again: it is of no use to Nix.
    fn drop_referrers(&mut self) {
        let mut gone = std::mem::take(&mut self.dropped);
        self.changed |= !gone.is_empty();
        gone.retain(|path| !self.registration.0.contains_key(path));
        while !gone.is_empty() {
            let referring = self.registration.0.iter().filter(|(path, entry)| {
                let mut others = entry.references.iter().filter(|other| other != path);
                others.any(|other| gone.contains(other))
            });
            gone = referring.map(|(path, _)| path.clone()).collect();
            for path in &gone {
                self.registration.0.remove(path);
            }
        }
    }

    /// Registers what was there already, and whose references are registered.
    fn register_adopted(&mut self, closure: bool) {
        let mut open = std::mem::take(&mut self.adopted);
        loop {
            let before = open.len();
            for info in std::mem::take(&mut open) {
                let mut others = info.references.iter().filter(|other| **other != info.path);
                if !closure || others.all(|other| self.registration.0.contains_key(other)) {
                    self.register(&info);
                } else {
                    open.push(info);
                }
            }
            if open.is_empty() || open.len() == before {
                return;
            }
        }
    }
}

/// A path that is being received.
struct Restore {
    sink: BlockingSink<Restored>,
    path: StorePath,
    state: Arc<Mutex<FolderState>>,
}

/// A path that is complete under its temporary name.
struct Restored {
    unpacker: Unpacker,
    hash: NarHash,
    size: u64,
}

fn restore(
    dest: &Path,
    limit: u64,
    known: Option<NarHash>,
    mut pieces: Receiver<Bytes>,
) -> Result<Restored, GetError> {
    // It is wrong, else it would not be fetched.
    if fs::symlink_metadata(dest).is_ok() {
        unpack::remove(dest).map_err(io_error("replace", dest))?;
    }
    let mut unpacker = Unpacker::new(dest, limit)?;
    // Old hosts report no hash.
    let mut hasher = Sha256::new();
    let mut size = 0;
    while let Some(piece) = pieces.blocking_recv() {
        unpacker.write(&piece)?;
        size += piece.len() as u64;
        if known.is_none() {
            hasher.update(&piece);
        }
    }
    Ok(Restored {
        unpacker,
        hash: known.unwrap_or_else(|| NarHash::new(hasher.finalize().into())),
        size,
    })
}

#[async_trait]
impl NarSink for Restore {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        self.sink.write(piece).await
    }
}

#[async_trait]
impl Incoming for Restore {
    async fn finish(self: Box<Self>) -> Result<(), GetError> {
        let restored = self.sink.finish().await?;
        let (hash, size) = (restored.hash, restored.size);
        blocking(move || Ok(restored.unpacker.commit()?)).await?;
        let mut state = self.state.lock();
        state.contents.insert(self.path, (hash, size));
        Ok(())
    }
}
