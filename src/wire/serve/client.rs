//! What a client reads.

use bytes::{Buf, BytesMut};

use super::{
    MAX_BANNER, MAX_CA_OR_SIG_LEN, MAX_REFERENCES_BYTES, MAX_SET, MAX_SIGS, MAX_SIZE, SERVER_MAGIC,
    Version,
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
    /// An entry that cannot be read. It has been stepped over whole.
    Unreadable(Unreadable),
    /// That was all.
    End,
}

/// A part of a reply that is framed rightly, but holds what cannot be read: what follows it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The path that it is about, quoted and printable.
    pub path: String,
    /// The first thing in it that cannot be read.
    pub why: WireError,
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
    /// What has come of it. Once something cannot be read only the framing of the rest matters.
    info: Result<PathInfo, Unreadable>,
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

    /// Takes the next info or the end; `None` when it has not come whole. An info is unreadable when
    /// something in it is no store path, hash or text, a size is too large, or a reference or the
    /// deriver lies in another store directory than its path.
    ///
    /// # Errors
    /// When a limit of a length or number is exceeded, or padding is not zero: where the next info
    /// begins is not known then.
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
        loop {
            if begun.bytes > MAX_REFERENCES_BYTES {
                let want = format!("at most {MAX_REFERENCES_BYTES} bytes");
                return Err(WireError::new("references of a path", want, "more"));
            }
            if begun.left == 0 {
                break;
            }
            let Some(()) = take(buf, |c| begun.reference(c))? else {
                return Ok(None);
            };
        }
        let version = self.version;
        let Some(()) = take(buf, |c| begun.rest(c, version))? else {
            return Ok(None);
        };
        Ok(self.begun.take().map(|begun| match begun.info {
            Ok(info) => InfosStep::Info(info),
            Err(unreadable) => InfosStep::Unreadable(unreadable),
        }))
    }
}

/// The beginning of an info, up to its references; `None` for the end of the reply.
fn begin(c: &mut Cursor<'_>) -> Result<Option<Begun>, Stop> {
    let path = c.string("path of an info", MAX_PATH_LEN)?;
    if path.is_empty() {
        return Ok(None);
    }
    let deriver = c.string("deriver", MAX_PATH_LEN)?;
    let left = c.length("number of references", MAX_SET)?;
    let info = head(path, deriver).map_err(|why| Unreadable {
        path: printable(path),
        why,
    });
    Ok(Some(Begun {
        info,
        left,
        bytes: 0,
    }))
}

fn head(path: &[u8], deriver: &[u8]) -> Result<PathInfo, WireError> {
    let field = "path of an info";
    let path = StorePath::from_bytes(path).map_err(|error| not_a_path(field, error))?;
    let deriver = match deriver {
        b"" => None,
        deriver => Some(sibling("deriver", deriver, &path)?),
    };
    Ok(PathInfo {
        path,
        deriver,
        references: Vec::new(),
        download_size: 0,
        nar_size: 0,
        nar_hash: None,
        ca: None,
        sigs: Vec::new(),
    })
}

/// A path in the same store directory. With another one callers that read on would fail.
fn sibling(field: &'static str, bytes: &[u8], path: &StorePath) -> Result<StorePath, WireError> {
    let parsed = StorePath::from_bytes(bytes).map_err(|error| not_a_path(field, error))?;
    if parsed.store_dir() != path.store_dir() {
        let want = format!("a path in {}", path.store_dir());
        return Err(WireError::new(field, want, printable(bytes)));
    }
    Ok(parsed)
}

impl Begun {
    /// Adds what was read to the info, if that can be read so far.
    fn add(&mut self, read: impl FnOnce(&mut PathInfo) -> Result<(), WireError>) {
        if let Ok(info) = &mut self.info
            && let Err(why) = read(info)
        {
            let path = printable(info.path.as_str().as_bytes());
            self.info = Err(Unreadable { path, why });
        }
    }

    /// Takes the next reference.
    fn reference(&mut self, c: &mut Cursor<'_>) -> Result<(), Stop> {
        let reference = c.string("reference", MAX_PATH_LEN)?;
        self.bytes += reference.len();
        self.left -= 1;
        self.add(|info| {
            let reference = sibling("reference", reference, &info.path)?;
            info.references.push(reference);
            Ok(())
        });
        Ok(())
    }

    /// Takes what follows the references.
    fn rest(&mut self, c: &mut Cursor<'_>, version: Version) -> Result<(), Stop> {
        let (download_size, nar_size) = (c.u64()?, c.u64()?);
        let mut texts = None;
        if version.has_hash() {
            let hash = c.string("NAR hash", MAX_CA_OR_SIG_LEN)?;
            let ca = c.string("content address", MAX_CA_OR_SIG_LEN)?;
            let mut sigs = Vec::new();
            for _ in 0..c.length("number of signatures", MAX_SIGS)? {
                sigs.push(c.string("signature", MAX_CA_OR_SIG_LEN)?);
            }
            texts = Some((hash, ca, sigs));
        }
        // All of it has come: from here on it is taken.
        self.add(|info| {
            info.references.sort();
            info.references.dedup();
            info.download_size = size("download size", download_size)?;
            info.nar_size = size("NAR size", nar_size)?;
            let Some((hash, ca, sigs)) = texts else {
                return Ok(());
            };
            info.nar_hash = Some(nar_hash(hash)?);
            let ca = text("content address", ca)?;
            info.ca = Some(ca).filter(|ca| !ca.is_empty());
            let sigs = sigs.into_iter().map(|sig| text("signature", sig));
            info.sigs = sigs.collect::<Result<_, _>>()?;
            Ok(())
        });
        Ok(())
    }
}

fn size(field: &'static str, size: u64) -> Result<u64, WireError> {
    if size > MAX_SIZE {
        return Err(WireError::new(field, format!("at most {MAX_SIZE}"), size));
    }
    Ok(size)
}

fn nar_hash(bytes: &[u8]) -> Result<NarHash, WireError> {
    let wrong = || WireError::new("NAR hash", "sha256:…", printable(bytes));
    let hash = std::str::from_utf8(bytes).map_err(|_| wrong())?;
    hash.parse().map_err(|_| wrong())
}

fn text(field: &'static str, bytes: &[u8]) -> Result<String, WireError> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned)
        .map_err(|_| WireError::new(field, "UTF-8 text", printable(bytes)))
}

fn not_a_path(field: &'static str, error: StorePathError) -> WireError {
    WireError::new(
        field,
        "STORE-DIR/HASH-NAME",
        format!("{:?} ({})", error.path, error.reason),
    )
}
