//! What a client reads.

use bytes::{Buf, BytesMut};

use super::{MAX_BANNER, MAX_SET, MAX_SIGS, MAX_SMALL, SERVER_MAGIC, Version};
use crate::model::{MAX_PATH_LEN, NarHash, PathInfo, StorePath, StorePathError};
use crate::wire::{Cursor, Stop, WireError, take};

/// Waits for the server's magic and version, and keeps what shell start-up files of the remote
/// print before it.
#[derive(Debug, Default)]
pub struct ServerHello {
    banner: Vec<u8>,
    magic_seen: bool,
}

impl ServerHello {
    /// Takes what is there; the number that the server gave as its version once it has come.
    ///
    /// # Errors
    /// When more than [`MAX_BANNER`] bytes came and the magic was not among them.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, WireError> {
        let magic = SERVER_MAGIC.to_le_bytes();
        if !self.magic_seen {
            let found = buf.windows(magic.len()).position(|bytes| bytes == magic);
            // A magic may have come in part: its first seven bytes stay.
            let skip = found.unwrap_or(buf.len().saturating_sub(magic.len() - 1));
            self.banner.extend_from_slice(&buf[..skip]);
            buf.advance(skip);
            if self.banner.len() > MAX_BANNER {
                return Err(WireError::new(
                    "handshake",
                    format!("the server's magic within {MAX_BANNER} bytes"),
                    crate::wire::printable(&self.banner),
                ));
            }
            if found.is_none() {
                return Ok(None);
            }
            buf.advance(magic.len());
            self.magic_seen = true;
        }
        take(buf, |c| c.u64())
    }

    /// What came before the magic so far.
    #[must_use]
    pub fn banner(&self) -> &[u8] {
        &self.banner
    }
}

/// A step through the reply to QueryPathInfos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InfosStep {
    /// One of the paths that were asked for (which the caller checks).
    Info(PathInfo),
    /// That was all.
    End,
}

/// Decodes the reply to QueryPathInfos, info by info.
#[derive(Debug, Clone, Copy)]
pub struct InfosDecoder {
    version: Version,
}

impl InfosDecoder {
    /// A decoder for a connection of this version.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self { version }
    }

    /// Takes the next info or the end; `None` when it has not come whole.
    ///
    /// # Errors
    /// When a limit is exceeded, something is no store path or hash, or a reference lies in
    /// another store directory than its path.
    pub fn step(&self, buf: &mut BytesMut) -> Result<Option<InfosStep>, WireError> {
        take(buf, |c| {
            let path = c.string("path of an info", MAX_PATH_LEN)?;
            if path.is_empty() {
                return Ok(InfosStep::End);
            }
            let path = StorePath::from_bytes(path).map_err(not_a_path)?;
            Ok(InfosStep::Info(self.info(c, path)?))
        })
    }

    fn info(self, c: &mut Cursor<'_>, path: StorePath) -> Result<PathInfo, Stop> {
        let deriver = match c.string("deriver", MAX_PATH_LEN)? {
            b"" => None,
            deriver => Some(StorePath::from_bytes(deriver).map_err(not_a_path)?),
        };
        let count = c.length("number of references", MAX_SET)?;
        let mut references = Vec::new();
        for _ in 0..count {
            let reference = c.string("reference", MAX_PATH_LEN)?;
            let reference = StorePath::from_bytes(reference).map_err(not_a_path)?;
            if reference.store_dir() != path.store_dir() {
                let want = format!("a path in {}", path.store_dir());
                return Err(WireError::new("reference", want, reference).into());
            }
            references.push(reference);
        }
        references.sort();
        references.dedup();
        let mut info = PathInfo {
            path,
            deriver,
            references,
            download_size: c.u64()?,
            nar_size: c.u64()?,
            nar_hash: None,
            ca: None,
            sigs: Vec::new(),
        };
        if self.version.has_hash() {
            let hash = c.text("NAR hash", MAX_SMALL)?;
            let hash: NarHash = hash
                .parse()
                .map_err(|_| WireError::new("NAR hash", "sha256:…", format!("{hash:?}")))?;
            info.nar_hash = Some(hash);
            let ca = c.text("content address", MAX_SMALL)?;
            info.ca = (!ca.is_empty()).then(|| ca.to_owned());
            for _ in 0..c.length("number of signatures", MAX_SIGS)? {
                info.sigs.push(c.text("signature", MAX_SMALL)?.to_owned());
            }
        }
        Ok(info)
    }
}

fn not_a_path(error: StorePathError) -> WireError {
    WireError::new(
        "store path",
        "STORE-DIR/HASH-NAME",
        format!("{:?} ({})", error.path, error.reason),
    )
}
