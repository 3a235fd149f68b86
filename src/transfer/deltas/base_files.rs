//! The files of a version that is here. Everything here blocks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::rewrite::HashRewrites;

/// The most files of a version, and how deep its folders may be.
const FILES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 64;

/// How much of a file is hashed at once, in bytes.
const BLOCK_SIZE: usize = 128 << 10;

/// The regular files of a store path, with their sizes.
#[derive(Debug)]
pub(super) struct BaseFiles {
    root: PathBuf,
    /// By their paths below the root; the root itself has the empty one.
    files: BTreeMap<Vec<u8>, u64>,
}

impl BaseFiles {
    /// Lists them.
    ///
    /// # Errors
    /// When something cannot be read, or there are more than 20,000.
    pub(super) fn list(root: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        let mut due = vec![(root.to_owned(), Vec::new(), 0)];
        while let Some((path, name, depth)) = due.pop() {
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_file() {
                files.insert(name, metadata.len());
                if files.len() > FILES_MAX {
                    return Err(io::Error::other("it has more than 20,000 files"));
                }
            } else if metadata.is_dir() {
                if depth == DEPTH_MAX {
                    return Err(io::Error::other("its folders are too deep"));
                }
                for entry in fs::read_dir(&path)? {
                    let entry = entry?.file_name().into_vec();
                    let separator: &[u8] = if name.is_empty() { b"" } else { b"/" };
                    let inner = [&name, separator, &entry].concat();
                    due.push((
                        path.join(std::ffi::OsStr::from_bytes(&entry)),
                        inner,
                        depth + 1,
                    ));
                }
            }
        }
        Ok(Self {
            root: root.to_owned(),
            files,
        })
    }

    /// Their paths and sizes in bytes, sorted by path.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.files.iter().map(|(path, size)| (&**path, *size))
    }

    /// A file as it is listed, and its size in bytes.
    pub(super) fn entry(&self, path: &[u8]) -> Option<(&[u8], u64)> {
        let (path, size) = self.files.get_key_value(path)?;
        Some((path, *size))
    }

    pub(super) fn size(&self, path: &[u8]) -> Option<u64> {
        self.files.get(path).copied()
    }

    /// The contents of a file: exactly as many bytes as it had.
    ///
    /// # Errors
    /// When it cannot be read, or has another size by now.
    pub(super) fn contents(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let size = self.size(path).unwrap_or_default();
        let len = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut contents = Vec::new();
        contents.try_reserve_exact(len + 1)?;
        // One more would show that it has grown.
        self.open(path)?.take(size + 1).read_to_end(&mut contents)?;
        match contents.len() == len {
            true => Ok(contents),
            false => Err(io::Error::other("it has another size by now")),
        }
    }

    /// `len` bytes of a file from offset `start` on.
    ///
    /// # Errors
    /// When it cannot be read, or has another size by now.
    pub(super) fn part(&self, path: &[u8], (start, len): (u64, u64)) -> io::Result<Vec<u8>> {
        let mut file = self.open(path)?;
        if self.size(path) != Some(file.metadata()?.len()) {
            return Err(io::Error::other("it has another size by now"));
        }
        file.seek(SeekFrom::Start(start))?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut part = Vec::new();
        part.try_reserve_exact(len)?;
        file.take(len as u64).read_to_end(&mut part)?;
        match part.len() == len {
            true => Ok(part),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The SHA-256 of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn digest(&self, path: &[u8]) -> io::Result<[u8; 32]> {
        // Whatever it is by now.
        let most = self.size(path).unwrap_or_default() + 1;
        let (mut file, mut hasher) = (self.open(path)?.take(most), Sha256::new());
        let mut block = vec![0; BLOCK_SIZE];
        loop {
            match file.read(&mut block)? {
                0 => return Ok(hasher.finalize().into()),
                len => hasher.update(&block[..len]),
            }
        }
    }

    /// The same of the file with other hashes of store paths in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn digest_with(&self, path: &[u8], rewrites: &HashRewrites) -> io::Result<[u8; 32]> {
        let most = self.size(path).unwrap_or_default() + 1;
        let (mut file, mut hasher) = (self.open(path)?.take(most), Sha256::new());
        let (mut block, mut filled) = (vec![0; BLOCK_SIZE], 0);
        loop {
            let read = file.read(&mut block[filled..])?;
            filled += read;
            let done = rewrites.apply(&mut block[..filled]);
            if read == 0 {
                hasher.update(&block[..filled]);
                return Ok(hasher.finalize().into());
            }
            hasher.update(&block[..done]);
            // What may be the beginning of a hash.
            block.copy_within(done..filled, 0);
            filled -= done;
        }
    }

    /// Files that are nowhere.
    #[cfg(test)]
    pub(super) fn of_sizes(files: &[(&str, u64)]) -> Self {
        let files = files.iter();
        Self {
            root: PathBuf::new(),
            files: files
                .map(|(path, size)| (path.as_bytes().to_vec(), *size))
                .collect(),
        }
    }

    fn open(&self, path: &[u8]) -> io::Result<File> {
        if path.is_empty() {
            return File::open(&self.root);
        }
        File::open(self.root.join(std::ffi::OsStr::from_bytes(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_and_read() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("c"), "contents").unwrap();
        fs::write(root.path().join("empty"), "").unwrap();
        std::os::unix::fs::symlink("c", inner.join("link")).unwrap();
        let files = BaseFiles::list(root.path()).unwrap();
        let listed: Vec<_> = files.iter().collect();
        assert_eq!(listed, [(&b"a/b/c"[..], 8), (b"empty", 0)]);
        assert_eq!(files.contents(b"a/b/c").unwrap(), b"contents");
        let digest: [u8; 32] = Sha256::digest("contents").into();
        assert_eq!(files.digest(b"a/b/c").unwrap(), digest);
        assert_eq!(files.part(b"a/b/c", (3, 4)).unwrap(), b"tent");
        assert!(files.part(b"a/b/c", (3, 6)).is_err());
        for other in ["longer than it was", "short"] {
            fs::write(inner.join("c"), other).unwrap();
            assert!(files.contents(b"a/b/c").is_err());
            assert!(files.part(b"a/b/c", (0, 1)).is_err());
        }
        let single = BaseFiles::list(&root.path().join("empty")).unwrap();
        assert_eq!(single.iter().collect::<Vec<_>>(), [(&b""[..], 0)]);
        assert_eq!(single.contents(b"").unwrap(), b"");
    }
}
