//! `--to DIR`: a folder laid out as a chroot store.
//!
//! ```text
//! DIR/nix/store/HASH-NAME         the paths
//! DIR/nix-path-registration       what nix-store --load-db reads; the name that NixOS gives it on its images
//! ```
//!
//! A path gets its name when it has verified, in one step. What counts as being there is registered, or has the hash that
//! a host tells; both ways its content is hashed again by each run, and replaced where it is wrong. A path is registered
//! when all that it refers to is, unless only the paths themselves are wanted.

mod check;
mod registration;

use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::Receiver;

use super::destination::{Destination, Gate, Incoming, Known};
use super::error::{GetError, io_error};
use super::feed::{Feed, blocking};
use super::lock::Lock;
use crate::model::{NarHash, PathInfo, StorePath};
use crate::transfer::unpack::{self, Unpacker};
use crate::transfer::{NarSink, Piece};
use check::Content;
use registration::{Entry, Registration};

/// Paths that are received at a time. Each has a thread while it lasts, and up to 4 MiB of pieces.
const AT_ONCE: usize = 16;

/// The registration's name.
const REGISTRATION: &str = "nix-path-registration";

/// A folder, with what is known of it.
pub(super) struct Folder {
    /// Where the registration is.
    file: PathBuf,
    /// Where the paths are.
    store: PathBuf,
    /// Whether paths may be registered without their references.
    closure: bool,
    shared: Arc<Mutex<Shared>>,
    _lock: Option<Lock>,
}

#[derive(Default)]
struct Shared {
    registration: Registration,
    /// What came or was found: hash and size.
    contents: HashMap<StorePath, (NarHash, u64)>,
    /// Whether the registration on disk is another one.
    changed: bool,
    /// What is there without being registered, with its info.
    adopted: Vec<Arc<PathInfo>>,
    /// What was registered and is not right.
    dropped: HashSet<StorePath>,
}

impl Folder {
    /// Opens a folder for paths in `store_dir`; it is made where there is none, unless one only wants to `look`.
    pub(super) async fn open(
        folder: &Path,
        store_dir: &str,
        closure: bool,
        look: bool,
    ) -> Result<Self, GetError> {
        let folder = std::path::absolute(folder).map_err(io_error("find", folder))?;
        let store = folder.join(store_dir.trim_start_matches('/'));
        let lock = if look {
            None
        } else {
            fs::create_dir_all(&store).map_err(io_error("make", &store))?;
            Some(Lock::of(&folder).await?)
        };
        let file = folder.join(REGISTRATION);
        let (registration, from) = (file.clone(), store.clone());
        let registration = blocking(move || {
            if !look {
                // What a run that was killed has left.
                unpack::sweep(&from);
            }
            Registration::read(&registration)
        });
        let shared = Shared {
            registration: registration.await?,
            ..Shared::default()
        };
        Ok(Self {
            file,
            store,
            closure,
            shared: Arc::new(Mutex::new(shared)),
            _lock: lock,
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }
}

#[async_trait]
impl Destination for Folder {
    fn gate(&self) -> Gate {
        Gate::Settle
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn known(&self, paths: &[StorePath]) -> Result<Vec<Known>, GetError> {
        let expected: Vec<_> = {
            let shared = self.shared();
            let entry = |path: &StorePath| {
                let entry = shared.registration.0.get(path)?;
                Some(Content::new(path, entry.hash, entry.size))
            };
            paths.iter().filter_map(entry).collect()
        };
        let asked: Vec<_> = expected
            .iter()
            .map(|content| content.path.clone())
            .collect();
        let right = check::right(&self.store, expected).await;
        let mut shared = self.shared();
        let mut known = Vec::new();
        for path in asked {
            if !right.contains(&path) {
                log::info!("{path} is registered, but it is missing or has changed");
                shared.registration.0.remove(&path);
                shared.dropped.insert(path);
            } else if let Some(entry) = shared.registration.0.get(&path) {
                let references = entry.references.clone();
                known.push(Known { path, references });
            }
        }
        Ok(known)
    }

    async fn holds(&self, infos: &[Arc<PathInfo>]) -> Result<HashSet<StorePath>, GetError> {
        let content = |info: &Arc<PathInfo>| {
            let there = fs::symlink_metadata(self.store.join(info.path.base_name()));
            let hash = info.nar_hash.filter(|_| there.is_ok())?;
            Some(Content::new(&info.path, hash, info.nar_size))
        };
        let expected = infos.iter().filter_map(content).collect();
        let right = check::right(&self.store, expected).await;
        let adopted = infos.iter().filter(|info| right.contains(&info.path));
        self.shared().adopted = adopted.cloned().collect();
        Ok(right)
    }

    async fn begin(&self) -> Result<(), GetError> {
        Ok(())
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
            feed: Feed::new(&info.path, work),
            path: info.path.clone(),
            shared: self.shared.clone(),
        }))
    }

    async fn settle(&self, info: &Arc<PathInfo>) -> Result<(), GetError> {
        self.shared().register(info);
        Ok(())
    }

    async fn end(&self) -> Result<(), GetError> {
        let (shared, file, closure) = (self.shared.clone(), self.file.clone(), self.closure);
        blocking(move || {
            let mut shared = shared.lock();
            shared.register_adopted(closure);
            shared.drop_referrers();
            match shared.changed {
                true => shared.registration.write(&file),
                false => Ok(()),
            }
        })
        .await
    }
}

impl Shared {
    fn register(&mut self, info: &PathInfo) {
        let told = info.nar_hash.map(|hash| (hash, info.nar_size));
        let Some((hash, size)) = self.contents.remove(&info.path).or(told) else {
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

    /// What refers to a path that was dropped, and did not come again, is of no use to Nix.
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

    /// What was there and refers to nothing that is not registered.
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

/// A path on its way.
struct Restore {
    feed: Feed<Restored>,
    path: StorePath,
    shared: Arc<Mutex<Shared>>,
}

/// A path that has come under its temporary name.
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
    // Wrong, or it would not be fetched.
    if fs::symlink_metadata(dest).is_ok() {
        unpack::remove(dest).map_err(io_error("replace", dest))?;
    }
    let mut unpacker = Unpacker::new(dest, limit)?;
    // For what hosts are too old to tell.
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
        self.feed.write(piece).await
    }
}

#[async_trait]
impl Incoming for Restore {
    async fn finish(self: Box<Self>) -> Result<(), GetError> {
        let restored = self.feed.end().await?;
        let (hash, size) = (restored.hash, restored.size);
        blocking(move || Ok(restored.unpacker.commit()?)).await?;
        let mut shared = self.shared.lock();
        shared.contents.insert(self.path, (hash, size));
        Ok(())
    }
}
