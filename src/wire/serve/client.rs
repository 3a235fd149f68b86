//! What a client reads.

use bytes::{Buf, BytesMut};

use super::{
    MAX_BANNER, MAX_REFERENCES_BYTES, MAX_SET, MAX_SIGS, MAX_SIZE, MAX_SMALL, SERVER_MAGIC, Version,
};
use crate::model::{MAX_PATH_LEN, NarHash, PathInfo, StorePath, StorePathError};
use crate::wire::{Cursor, Stop, WireError, printable, take};

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

/// Decodes the reply to QueryPathInfos, info by info, and each of them reference by reference, so that
/// a long one is never decoded twice.
#[derive(Debug, Clone)]
pub struct InfosDecoder {
    version: Version,
    begun: Option<Begun>,
}

/// An info of which the rest has not come.
#[derive(Debug, Clone)]
struct Begun {
    path: StorePath,
    deriver: Option<StorePath>,
    references: Vec<StorePath>,
    /// How many references are to come.
    left: usize,
    /// Bytes of those that have come.
    bytes: usize,
}

impl InfosDecoder {
    /// A decoder for a connection of this version. It can be used for one reply after the other.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self {
            version,
            begun: None,
        }
    }

    /// Takes the next info or the end; `None` when it has not come whole.
    ///
    /// # Errors
    /// When a limit is exceeded, something is not a store path or hash, or a reference or the deriver lies
    /// in another store directory than its path.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<InfosStep>, WireError> {
        if self.begun.is_none() {
            match take(buf, begin)? {
                None => return Ok(None),
                Some(None) => return Ok(Some(InfosStep::End)),
                Some(begun) => self.begun = begun,
            }
        }
        let Some(begun) = &mut self.begun else {
            return Ok(None);
        };
        while begun.left > 0 {
            let Some((reference, len)) = take(buf, |c| reference(c, &begun.path))? else {
                return Ok(None);
            };
            begun.references.push(reference);
            begun.left -= 1;
            begun.bytes += len;
            if begun.bytes > MAX_REFERENCES_BYTES {
                let want = format!("at most {MAX_REFERENCES_BYTES} bytes");
                return Err(WireError::new("references of a path", want, "more"));
            }
        }
        let version = self.version;
        let Some(mut info) = take(buf, |c| finish(c, version, begun))? else {
            return Ok(None);
        };
        info.references = std::mem::take(&mut begun.references);
        info.references.sort();
        info.references.dedup();
        self.begun = None;
        Ok(Some(InfosStep::Info(info)))
    }
}

/// The beginning of an info, up to its references; `None` for the end of the reply.
fn begin(c: &mut Cursor<'_>) -> Result<Option<Begun>, Stop> {
    let path = c.string("path of an info", MAX_PATH_LEN)?;
    if path.is_empty() {
        return Ok(None);
    }
    let path = StorePath::from_bytes(path).map_err(not_a_path)?;
    let deriver = match c.string("deriver", MAX_PATH_LEN)? {
        b"" => None,
        deriver => Some(within("deriver", deriver, &path)?),
    };
    let left = c.length("number of references", MAX_SET)?;
    Ok(Some(Begun {
        path,
        deriver,
        references: Vec::new(),
        left,
        bytes: 0,
    }))
}

fn reference(c: &mut Cursor<'_>, path: &StorePath) -> Result<(StorePath, usize), Stop> {
    let reference = c.string("reference", MAX_PATH_LEN)?;
    Ok((within("reference", reference, path)?, reference.len()))
}

/// A path in the same store directory. With another one callers that read on would fail.
fn within(field: &'static str, bytes: &[u8], path: &StorePath) -> Result<StorePath, WireError> {
    let parsed = StorePath::from_bytes(bytes).map_err(not_a_path)?;
    if parsed.store_dir() != path.store_dir() {
        let want = format!("a path in {}", path.store_dir());
        return Err(WireError::new(field, want, printable(bytes)));
    }
    Ok(parsed)
}

/// Adds what follows the references to an info.
fn finish(c: &mut Cursor<'_>, version: Version, begun: &Begun) -> Result<PathInfo, Stop> {
    let mut info = PathInfo {
        path: begun.path.clone(),
        deriver: begun.deriver.clone(),
        references: Vec::new(),
        download_size: size(c, "download size")?,
        nar_size: size(c, "NAR size")?,
        nar_hash: None,
        ca: None,
        sigs: Vec::new(),
    };
    if version.has_hash() {
        let hash = c.text("NAR hash", MAX_SMALL)?;
        let hash: NarHash = hash
            .parse()
            .map_err(|_| WireError::new("NAR hash", "sha256:…", printable(hash.as_bytes())))?;
        info.nar_hash = Some(hash);
        let ca = c.text("content address", MAX_SMALL)?;
        info.ca = (!ca.is_empty()).then(|| ca.to_owned());
        for _ in 0..c.length("number of signatures", MAX_SIGS)? {
            info.sigs.push(c.text("signature", MAX_SMALL)?.to_owned());
        }
    }
    Ok(info)
}

fn size(c: &mut Cursor<'_>, field: &'static str) -> Result<u64, Stop> {
    let size = c.u64()?;
    if size > MAX_SIZE {
        return Err(WireError::new(field, format!("at most {MAX_SIZE}"), size).into());
    }
    Ok(size)
}

fn not_a_path(error: StorePathError) -> WireError {
    WireError::new(
        "store path",
        "STORE-DIR/HASH-NAME",
        format!("{:?} ({})", error.path, error.reason),
    )
}
