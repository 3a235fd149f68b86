//! `--to file:///DIR`: a binary cache that Nix can use as a substituter.
//!
//! ```text
//! DIR/nix-cache-info
//! DIR/HASH.narinfo                 for each path, see `narinfo`
//! DIR/nar/FILEHASH.nar.zst
//! ```
//!
//! A narinfo is there only when its NAR is, and the narinfos of all that it refers to (unless only the paths themselves
//! are wanted). Everything is written under a temporary name first. Signatures are passed on.

mod narinfo;
mod pack;

use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::destination::{Destination, Gate, Incoming, Known};
use super::error::{GetError, io_error};
use super::feed::{Feed, blocking};
use super::lock::Lock;
use crate::model::{PathInfo, StorePath};
use crate::transfer::{NarSink, Piece};
use narinfo::Packed;
use pack::{Temporary, pack};

/// Paths that are received at a time; the processors are busy with compressing them.
const AT_ONCE: usize = 8;

/// Longest narinfo or nix-cache-info that is read, in bytes.
const MOST: u64 = 4 << 20;

/// What the names of files begin with that are not complete.
const TEMPORARY: &str = ".ssh-substituter-";

/// A binary cache.
pub(super) struct Cache {
    shared: Arc<Shared>,
    _lock: Option<Lock>,
}

struct Shared {
    folder: PathBuf,
    store_dir: String,
    /// NARs that came, whose narinfo waits for others.
    packed: Mutex<HashMap<StorePath, Packed>>,
    count: AtomicU64,
}

impl Cache {
    /// Opens a cache for paths in `store_dir`; it is made where there is none, unless one only wants to `look`.
    pub(super) async fn open(folder: &Path, store_dir: &str, look: bool) -> Result<Self, GetError> {
        let lock = if look {
            None
        } else {
            let nars = folder.join("nar");
            fs::create_dir_all(&nars).map_err(io_error("make", &nars))?;
            let lock = Lock::of(folder).await?;
            clean(folder);
            clean(&nars);
            Some(lock)
        };
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            store_dir: store_dir.to_owned(),
            packed: Mutex::default(),
            count: AtomicU64::new(0),
        });
        let checked = shared.clone();
        blocking(move || checked.check_store()).await?;
        let _lock = lock;
        Ok(Self { shared, _lock })
    }
}

impl Shared {
    fn packed(&self) -> MutexGuard<'_, HashMap<StorePath, Packed>> {
        self.packed.lock()
    }

    /// A new file in `folder`.
    fn temporary(&self, folder: &Path) -> Temporary {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}{}-{count}", std::process::id());
        Temporary::new(folder.join(name))
    }

    fn info_file(&self) -> PathBuf {
        self.folder.join("nix-cache-info")
    }

    /// That it is a cache for our store, if it is one.
    fn check_store(&self) -> Result<(), GetError> {
        let Some(text) = read(&self.info_file())? else {
            return Ok(());
        };
        let mut lines = text.lines();
        let dir = lines.find_map(|line| line.strip_prefix("StoreDir:").map(str::trim));
        match dir {
            Some(dir) if dir != self.store_dir => Err(GetError::OtherStore {
                folder: self.folder.clone(),
                expected: self.store_dir.clone(),
                got: dir.chars().take(100).collect(),
            }),
            _ => Ok(()),
        }
    }

    fn narinfo(&self, path: &StorePath) -> PathBuf {
        self.folder.join(format!("{}.narinfo", path.hash_part()))
    }

    /// The path, if its narinfo makes sense and its file has the right size.
    fn there(&self, path: &StorePath) -> Option<Known> {
        let text = read(&self.narinfo(path)).ok()??;
        let there = narinfo::read(&text, path)?;
        let file = fs::metadata(self.folder.join(there.url)).ok()?;
        (file.is_file() && file.len() == there.file_size).then(|| Known {
            path: path.clone(),
            references: there.references,
        })
    }
}

/// Removes what a run that was killed has left: nobody else is at work here.
fn clean(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A small text; `None` where there is no such file.
fn read(file: &Path) -> Result<Option<String>, GetError> {
    let opened = match fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", file)(error)),
    };
    let mut text = Vec::new();
    let read = opened.take(MOST).read_to_end(&mut text);
    read.map_err(io_error("read", file))?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

#[async_trait]
impl Destination for Cache {
    fn gate(&self) -> Gate {
        Gate::Settle
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn known(&self, paths: &[StorePath]) -> Result<Vec<Known>, GetError> {
        let (shared, paths) = (self.shared.clone(), paths.to_vec());
        blocking(move || Ok(paths.iter().filter_map(|path| shared.there(path)).collect())).await
    }

    async fn holds(&self, _: &[Arc<PathInfo>]) -> Result<HashSet<StorePath>, GetError> {
        // A NAR without its narinfo tells nothing of itself.
        Ok(HashSet::new())
    }

    async fn begin(&self) -> Result<(), GetError> {
        let shared = self.shared.clone();
        blocking(move || {
            let file = shared.info_file();
            if fs::symlink_metadata(&file).is_ok() {
                return Ok(());
            }
            let text = format!("StoreDir: {}\nWantMassQuery: 1\n", shared.store_dir);
            shared.temporary(&shared.folder).write(&text, &file)
        })
        .await
    }

    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError> {
        let temporary = self.shared.temporary(&self.shared.folder.join("nar"));
        let known = info.nar_hash;
        Ok(Box::new(Packing {
            feed: Feed::new(&info.path, move |pieces| pack(temporary, known, pieces)),
            path: info.path.clone(),
            shared: self.shared.clone(),
        }))
    }

    async fn settle(&self, info: &Arc<PathInfo>) -> Result<(), GetError> {
        let (shared, info) = (self.shared.clone(), info.clone());
        blocking(move || {
            let Some(packed) = shared.packed().remove(&info.path) else {
                return Ok(());
            };
            let text = narinfo::text(&info, &packed);
            let narinfo = shared.narinfo(&info.path);
            shared.temporary(&shared.folder).write(&text, &narinfo)
        })
        .await
    }

    async fn end(&self) -> Result<(), GetError> {
        // A NAR whose narinfo still waits for others stays: another path may have the same, and the next run gives it
        // the same name.
        Ok(())
    }
}

/// A path on its way.
struct Packing {
    feed: Feed<(Temporary, Packed)>,
    path: StorePath,
    shared: Arc<Shared>,
}

#[async_trait]
impl NarSink for Packing {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        self.feed.write(piece).await
    }
}

#[async_trait]
impl Incoming for Packing {
    async fn finish(self: Box<Self>) -> Result<(), GetError> {
        let (temporary, packed) = self.feed.end().await?;
        let file = self.shared.folder.join(packed.url());
        blocking(move || temporary.rename(&file)).await?;
        self.shared.packed().insert(self.path, packed);
        Ok(())
    }
}
