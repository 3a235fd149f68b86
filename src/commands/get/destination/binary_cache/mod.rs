//! `--to file:///DIR`: a binary cache that Nix can use as a substituter.
//!
//! ```text
//! DIR/nix-cache-info
//! DIR/HASH.narinfo                 for each path, see `narinfo`
//! DIR/nar/FILEHASH.nar.zst
//! ```
//!
//! A narinfo is there only when its NAR is, and the narinfos of all that it refers to (unless only the paths themselves
//! are wanted). Everything is written under a temporary name first. Signatures are passed on. A NAR whose narinfo was not
//! written stays: another path may have the same one, and the next run gives it the same name.

mod narinfo;
mod pack;

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::blocking_sink::{BlockingSink, blocking};
use super::folder_lock::FolderLock;
use super::{Destination, Incoming, Present, ReferencesFirst};
use crate::commands::get::error::{GetError, io_error};
use crate::model::{PathInfo, StorePath};
use crate::transfer::{NarSink, Piece};
use narinfo::{Narinfo, Packed};
use pack::{TemporaryFile, pack};

/// Paths that are received at a time; the processors are busy with compressing them.
const AT_ONCE: usize = 8;

/// Longest narinfo or nix-cache-info that is read, in bytes.
const MAX_TEXT_SIZE: u64 = 4 << 20;

/// The beginning of the names of incomplete files.
const TEMPORARY_PREFIX: &str = ".ssh-substituter-";

/// A binary cache.
pub(in crate::commands::get) struct BinaryCache {
    files: Arc<CacheFiles>,
    _lock: Option<FolderLock>,
}

struct CacheFiles {
    folder: PathBuf,
    store_dir: String,
    /// NARs that are complete, and whose narinfo waits for those of their references.
    packed: Mutex<HashMap<StorePath, Packed>>,
    count: AtomicU64,
}

impl BinaryCache {
    /// Opens a cache for paths in `store_dir`; it is made where there is none, except with `dry_run`.
    pub(in crate::commands::get) async fn open(
        folder: &Path,
        store_dir: &str,
        dry_run: bool,
    ) -> Result<Self, GetError> {
        let lock = if dry_run {
            None
        } else {
            let nars = folder.join("nar");
            fs::create_dir_all(&nars).map_err(io_error("make", &nars))?;
            let lock = FolderLock::acquire(folder).await?;
            remove_temporary_files(folder);
            remove_temporary_files(&nars);
            Some(lock)
        };
        let files = Arc::new(CacheFiles {
            folder: folder.to_owned(),
            store_dir: store_dir.to_owned(),
            packed: Mutex::default(),
            count: AtomicU64::new(0),
        });
        let checked = files.clone();
        blocking(move || checked.check_store()).await?;
        let _lock = lock;
        Ok(Self { files, _lock })
    }
}

impl CacheFiles {
    /// A new file in `folder`.
    fn temporary(&self, folder: &Path) -> TemporaryFile {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY_PREFIX}{}-{count}", std::process::id());
        TemporaryFile::new(folder.join(name))
    }

    fn info_file(&self) -> PathBuf {
        self.folder.join("nix-cache-info")
    }

    /// Checks that an existing cache is for our store directory.
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
    fn present(&self, path: &StorePath) -> Option<Present> {
        let text = read(&self.narinfo(path)).ok()??;
        let narinfo = Narinfo::parse(&text, path)?;
        let file = fs::metadata(self.folder.join(narinfo.url)).ok()?;
        (file.is_file() && file.len() == narinfo.file_size).then(|| Present {
            path: path.clone(),
            references: narinfo.references,
        })
    }
}

/// Removes what a killed run has left: the lock keeps other runs out.
fn remove_temporary_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(TEMPORARY_PREFIX)
        {
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
    let read = opened.take(MAX_TEXT_SIZE).read_to_end(&mut text);
    read.map_err(io_error("read", file))?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

#[async_trait]
impl Destination for BinaryCache {
    fn references_first(&self) -> ReferencesFirst {
        ReferencesFirst::Registration
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.files.folder)
    }

    async fn present(&self, paths: &[StorePath]) -> Result<Vec<Present>, GetError> {
        let (files, paths) = (self.files.clone(), paths.to_vec());
        blocking(move || {
            Ok(paths
                .iter()
                .filter_map(|path| files.present(path))
                .collect())
        })
        .await
    }

    async fn begin(&self) -> Result<(), GetError> {
        let files = self.files.clone();
        blocking(move || {
            let file = files.info_file();
            if fs::symlink_metadata(&file).is_ok() {
                return Ok(());
            }
            let text = format!("StoreDir: {}\nWantMassQuery: 1\n", files.store_dir);
            files.temporary(&files.folder).write(&text, &file)
        })
        .await
    }

    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError> {
        let temporary = self.files.temporary(&self.files.folder.join("nar"));
        let known = info.nar_hash;
        Ok(Box::new(Packing {
            sink: BlockingSink::new(&info.path, move |pieces| pack(temporary, known, pieces)),
            path: info.path.clone(),
            files: self.files.clone(),
        }))
    }

    async fn register(&self, info: &Arc<PathInfo>) -> Result<(), GetError> {
        let (files, info) = (self.files.clone(), info.clone());
        blocking(move || {
            let Some(packed) = files.packed.lock().remove(&info.path) else {
                return Ok(());
            };
            let text = narinfo::render(&info, &packed);
            let narinfo = files.narinfo(&info.path);
            files.temporary(&files.folder).write(&text, &narinfo)
        })
        .await
    }
}

/// A path that is being received.
struct Packing {
    sink: BlockingSink<(TemporaryFile, Packed)>,
    path: StorePath,
    files: Arc<CacheFiles>,
}

#[async_trait]
impl NarSink for Packing {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        self.sink.write(piece).await
    }
}

#[async_trait]
impl Incoming for Packing {
    async fn finish(self: Box<Self>) -> Result<(), GetError> {
        let (temporary, packed) = self.sink.finish().await?;
        let file = self.files.folder.join(packed.url());
        blocking(move || temporary.rename(&file)).await?;
        self.files.packed.lock().insert(self.path, packed);
        Ok(())
    }
}
