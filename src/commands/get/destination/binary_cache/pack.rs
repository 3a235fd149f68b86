//! Compressing a NAR into a file of the cache.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::Receiver;
use zstd::stream::write::Encoder;

use super::narinfo::Packed;
use crate::commands::get::error::{GetError, io_error};
use crate::model::NarHash;

/// zstd's own default: faster than most networks, and nearly as small as what takes ten times as long.
const ZSTD_LEVEL: i32 = 3;

/// A file under a temporary name, removed when this is dropped, unless it was renamed.
pub(super) struct TemporaryFile(Option<PathBuf>);

impl TemporaryFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Some(path))
    }

    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Renames it to its final name, replacing what has that name.
    pub(super) fn rename(mut self, to: &Path) -> Result<(), GetError> {
        fs::rename(self.path(), to).map_err(io_error("write", to))?;
        self.0 = None;
        Ok(())
    }

    /// Writes a whole file to `to`, in one step.
    pub(super) fn write(self, text: &str, to: &Path) -> Result<(), GetError> {
        fs::write(self.path(), text).map_err(io_error("write", self.path()))?;
        self.rename(to)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // What cannot be removed is left to the next run.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file, and counts and hashes what is written.
struct Hashing {
    file: File,
    hasher: Sha256,
    written: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Compresses all pieces into `temporary`. `known` is the hash of the NAR, where a host reported it.
pub(super) fn pack(
    temporary: TemporaryFile,
    known: Option<NarHash>,
    mut pieces: Receiver<Bytes>,
) -> Result<(TemporaryFile, Packed), GetError> {
    let path = temporary.path().to_owned();
    let failed = |source| io_error("write", path.clone())(source);
    let file = File::create(&path).map_err(failed)?;
    let out = Hashing {
        file,
        hasher: Sha256::new(),
        written: 0,
    };
    let mut encoder = Encoder::new(out, ZSTD_LEVEL).map_err(failed)?;
    // Old hosts report no hash.
    let mut hasher = Sha256::new();
    let mut nar_size = 0;
    while let Some(piece) = pieces.blocking_recv() {
        encoder.write_all(&piece).map_err(failed)?;
        nar_size += piece.len() as u64;
        if known.is_none() {
            hasher.update(&piece);
        }
    }
    let out = encoder.finish().map_err(failed)?;
    let packed = Packed {
        file_hash: NarHash::new(out.hasher.finalize().into()),
        file_size: out.written,
        nar_hash: known.unwrap_or_else(|| NarHash::new(hasher.finalize().into())),
        nar_size,
    };
    Ok((temporary, packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_can_be_unpacked_and_leaves_nothing_when_it_is_not_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let told = NarHash::new([7; 32]);
        let nar = b"some bytes, some bytes, some bytes".repeat(10_000);
        for known in [None, Some(told)] {
            let (pieces, ready) = tokio::sync::mpsc::channel(100);
            for piece in nar.chunks(65_536) {
                pieces.try_send(Bytes::copy_from_slice(piece)).unwrap();
            }
            drop(pieces);
            let temporary = TemporaryFile::new(folder.path().join("temporary"));
            let (temporary, packed) = pack(temporary, known, ready).unwrap();
            let file = fs::read(temporary.path()).unwrap();
            assert_eq!(zstd::decode_all(&file[..]).unwrap(), nar);
            let hash = |bytes: &[u8]| NarHash::new(Sha256::digest(bytes).into());
            assert_eq!(packed.nar_size, nar.len() as u64);
            assert_eq!(packed.file_size, file.len() as u64);
            assert_eq!(packed.file_hash, hash(&file));
            assert_eq!(packed.nar_hash, known.unwrap_or(hash(&nar)));
            drop(temporary);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
