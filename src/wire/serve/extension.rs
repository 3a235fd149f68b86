//! The extension of the serve protocol by which a host that runs our program sends parts of NARs: to a client that has no
//! shell there, in one process.
//!
//! A server that speaks it says so in answer to an ordinary QueryValidPaths for [`feature_path`], a store path that no store
//! has: it counts the path as valid. `nix-store --serve` of any version answers that it is not, and a client that never asks
//! never notices the extension. Requests are those of the serve protocol, and these:
//!
//! ```text
//! op      request                                  body of the reply
//! 0x5381  List   path level                        listing
//! 0x5382  Chunk  path start length level           so many bytes of the NAR from that offset on
//! 0x5383  Digest path start length contents-only   SHA-256 of them (32 bytes), or of what of them is from files
//! 0x5384  is kept for Delta: a chunk compressed against a part of another NAR that both sides have
//!
//! reply   = { busy | piece } 0 status reason       reason is a text for people, empty where the status is 0
//! piece   = length bytes                           without padding
//! busy    = 2^64 - 1                               at work on a listing or a digest; not in a reply to Chunk
//! status  = 0 done
//!         | 1 absent    the path is not valid (any more), or its files are gone
//!         | 2 unfit     it cannot be had in parts, or not this part
//!         | 3 failed    it could not be read
//! body    = all pieces: as they are at level 0, else one frame of zstd's, made at that level
//!
//! listing = { entry }                              all objects of the path, in the order of the archive
//! entry   = 0 name                                 directory
//!         | 1 name size                            file
//!         | 2 name size                            executable file
//!         | 3 name target                          symlink
//! name    = a string: the path below the root, parts separated by slashes; empty for the root
//! ```
//!
//! Requests may be written ahead. Replies come in their order, and whatever the status is, the next reply follows: unlike a
//! dump, what cannot be read costs neither the connection nor any other reply.
//!
//! | what | limit |
//! | --- | --- |
//! | a piece | 1 to 262,144 bytes |
//! | a reason | 1,024 bytes |
//! | a listing | 200,000 entries and 32 MiB |
//! | a level | 0 to 19 |
//! | busy in one reply | 720, one in 5 s at most |
//! | the window of a frame | 8 MiB |
//! | a frame | 1/64 more than what is in it, and 1 KiB |

mod listing;

use bytes::{Buf, BytesMut};

pub use listing::{parse_listing, put_entry};

use super::{Incoming as ServeIncoming, RequestDecoder as ServeDecoder};
use crate::model::{MAX_PATH_LEN, StorePath, StorePathError};
use crate::wire::{Cursor, Stop, WireError, put_string, put_u64, take};

/// Longest piece of a body, in bytes.
pub const MAX_PIECE: usize = 256 << 10;
/// Longest reason, in bytes.
pub const MAX_REASON: usize = 1024;
/// Longest listing, in bytes.
pub const MAX_LISTING: usize = 32 << 20;
/// Most entries of a listing.
pub const MAX_ENTRIES: usize = 200_000;
/// Highest level of zstd: what is above needs windows that are refused.
pub const MAX_LEVEL: u8 = 19;
/// How often one reply may say that the server is at work.
pub const MAX_BUSY: u32 = 720;

/// The base name of the path that only a server with this version of the extension counts as valid. No content has such a
/// hash, and no store such a path.
const FEATURE: &str = "00000000000000000000000000000000-ssh-substituter-serve-extension-1";

const LIST: u64 = 0x5381;
const CHUNK: u64 = 0x5382;
const DIGEST: u64 = 0x5383;

const BUSY: u64 = u64::MAX;

/// The path in `store_dir` whose validity says whether a server speaks the extension. `None` where that is no folder of a
/// store.
#[must_use]
pub fn feature_path(store_dir: &str) -> Option<StorePath> {
    StorePath::parse(&format!("{store_dir}/{FEATURE}")).ok()
}

/// Whether a path asks for the extension, in any store directory.
#[must_use]
pub fn is_feature_path(path: &StorePath) -> bool {
    path.base_name() == FEATURE
}

/// The longest frame that a body of `len` bytes may come as, in bytes. What zstd cannot compress grows by less.
#[must_use]
pub fn max_frame_len(len: u64) -> u64 {
    len.saturating_add(len / 64).saturating_add(1024)
}

/// What a client asks for beyond the serve protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The objects of a path.
    List {
        /// The path.
        path: StorePath,
        /// The level of zstd, 0 for none.
        level: u8,
    },
    /// A part of a NAR.
    Chunk {
        /// The path.
        path: StorePath,
        /// Offset of the first byte in the NAR.
        start: u64,
        /// How many bytes.
        len: u64,
        /// The level of zstd, 0 for none.
        level: u8,
    },
    /// The SHA-256 of a part of a NAR.
    Digest {
        /// The path.
        path: StorePath,
        /// Offset of the first byte in the NAR.
        start: u64,
        /// How many bytes.
        len: u64,
        /// Only of what of them are contents of files.
        contents_only: bool,
    },
}

impl Request {
    /// Appends the request.
    pub fn put(&self, out: &mut Vec<u8>) {
        let path = |out: &mut Vec<u8>, path: &StorePath| put_string(out, path.as_str().as_bytes());
        match self {
            Self::List { path: of, level } => {
                put_u64(out, LIST);
                path(out, of);
                put_u64(out, u64::from(*level));
            }
            Self::Chunk {
                path: of,
                start,
                len,
                level,
            } => {
                put_u64(out, CHUNK);
                path(out, of);
                put_u64(out, *start);
                put_u64(out, *len);
                put_u64(out, u64::from(*level));
            }
            Self::Digest {
                path: of,
                start,
                len,
                contents_only,
            } => {
                put_u64(out, DIGEST);
                path(out, of);
                put_u64(out, *start);
                put_u64(out, *len);
                put_u64(out, u64::from(*contents_only));
            }
        }
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &StorePath {
        match self {
            Self::List { path, .. } | Self::Chunk { path, .. } | Self::Digest { path, .. } => path,
        }
    }

    /// Whether the reply may say that the server is at work.
    #[must_use]
    pub fn may_be_busy(&self) -> bool {
        !matches!(self, Self::Chunk { .. })
    }
}

/// What a server with the extension is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Something of the serve protocol.
    Serve(ServeIncoming),
    /// Something of the extension.
    Extension(Request),
    /// The same, of something that is not a store path or at no level of zstd: to be answered with
    /// [`Status::Unfit`] and this reason.
    Unfit(String),
}

/// Decodes requests of both kinds, one after the other.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    serve: ServeDecoder,
    is_extended: bool,
}

impl RequestDecoder {
    /// Without the extension (`is_extended`) its requests are operations that are not served.
    #[must_use]
    pub fn new(is_extended: bool) -> Self {
        let serve = ServeDecoder::default();
        Self { serve, is_extended }
    }

    /// Takes what is complete in `buf`; a request once it has come whole.
    ///
    /// # Errors
    /// When a limit is exceeded or padding is not zero.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        let op = Cursor::new(buf).u64();
        let is_own = self.is_extended && matches!(op, Ok(LIST | CHUNK | DIGEST));
        if self.serve.has_begun() || !is_own {
            return Ok(self.serve.step(buf)?.map(Incoming::Serve));
        }
        take(buf, own_request)
    }

    /// Whether the client may end here: no request has come in part.
    #[must_use]
    pub fn is_between_requests(&self, buf: &BytesMut) -> bool {
        self.serve.is_between_requests(buf)
    }
}

fn own_request(c: &mut Cursor<'_>) -> Result<Incoming, Stop> {
    let op = c.u64()?;
    let path = StorePath::from_bytes(c.string("store path", MAX_PATH_LEN)?);
    Ok(match op {
        LIST => {
            let level = level(c.u64()?);
            fit(path, level, |path, level| Request::List { path, level })
        }
        CHUNK => {
            let (start, len, level) = (c.u64()?, c.u64()?, level(c.u64()?));
            fit(path, level, |path, level| Request::Chunk {
                path,
                start,
                len,
                level,
            })
        }
        _ => {
            let (start, len, contents_only) = (c.u64()?, c.u64()?, c.u64()? != 0);
            fit(path, Ok(0), |path, _| Request::Digest {
                path,
                start,
                len,
                contents_only,
            })
        }
    })
}

fn level(number: u64) -> Result<u8, u64> {
    match u8::try_from(number) {
        Ok(level) if level <= MAX_LEVEL => Ok(level),
        _ => Err(number),
    }
}

fn fit(
    path: Result<StorePath, StorePathError>,
    level: Result<u8, u64>,
    request: impl FnOnce(StorePath, u8) -> Request,
) -> Incoming {
    match (path, level) {
        (Ok(path), Ok(level)) => Incoming::Extension(request(path, level)),
        (Err(error), _) => Incoming::Unfit(error.to_string()),
        (_, Err(got)) => Incoming::Unfit(format!("level of zstd: expected 0 to 19, got {got}")),
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All of the body has come.
    Done,
    /// The path is not valid there (any more), or its files are gone.
    Absent,
    /// It cannot be had in parts, or not this part.
    Unfit,
    /// It could not be read.
    Failed,
}

impl Status {
    const ALL: [Self; 4] = [Self::Done, Self::Absent, Self::Unfit, Self::Failed];
}

/// Appends the head of a piece of `len` bytes (1 to [`MAX_PIECE`]), which have to follow.
pub fn put_piece_head(out: &mut Vec<u8>, len: usize) {
    put_u64(out, len as u64);
}

/// Appends that the server is at work.
pub fn put_busy(out: &mut Vec<u8>) {
    put_u64(out, BUSY);
}

/// Ends a reply. A long `reason` is cut.
pub fn put_end(out: &mut Vec<u8>, status: Status, reason: &str) {
    put_u64(out, 0);
    put_u64(out, status as u64);
    let mut len = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    put_string(out, &reason.as_bytes()[..len]);
}

/// A step through a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyStep {
    /// These bytes of the body.
    Body(BytesMut),
    /// The server is at work.
    Busy,
    /// That was all. The reason is empty where it is done.
    End(Status, String),
}

/// Decodes one reply.
#[derive(Debug)]
pub struct ReplyDecoder {
    /// Bytes of the present piece that have not come.
    left: usize,
    /// How often it may still be busy.
    busy: u32,
}

impl ReplyDecoder {
    /// At the beginning of a reply that [`may be busy`](Request::may_be_busy).
    #[must_use]
    pub fn new(may_be_busy: bool) -> Self {
        let busy = if may_be_busy { MAX_BUSY } else { 0 };
        Self { left: 0, busy }
    }

    /// Takes what is there, part of a piece too. `None` when it needs more.
    ///
    /// # Errors
    /// When a limit is exceeded, padding is not zero, or there is no such status.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<ReplyStep>, WireError> {
        if self.left == 0 {
            let busy = self.busy;
            match take(buf, |c| head(c, busy))? {
                None => return Ok(None),
                Some(Head::Busy) => {
                    self.busy -= 1;
                    return Ok(Some(ReplyStep::Busy));
                }
                Some(Head::End(status, reason)) => {
                    return Ok(Some(ReplyStep::End(status, reason)));
                }
                Some(Head::Piece(len)) => self.left = len,
            }
        }
        if buf.is_empty() {
            return Ok(None);
        }
        let body = buf.split_to(self.left.min(buf.remaining()));
        self.left -= body.len();
        Ok(Some(ReplyStep::Body(body)))
    }
}

enum Head {
    Piece(usize),
    Busy,
    End(Status, String),
}

fn head(c: &mut Cursor<'_>, busy: u32) -> Result<Head, Stop> {
    let number = c.u64()?;
    if number == BUSY && busy > 0 {
        return Ok(Head::Busy);
    }
    if number > 0 {
        let len = usize::try_from(number).ok();
        let Some(len) = len.filter(|len| *len <= MAX_PIECE) else {
            let want = format!("0 to {MAX_PIECE}");
            return Err(WireError::new("length of a piece", want, number).into());
        };
        return Ok(Head::Piece(len));
    }
    let number = c.u64()?;
    let status = usize::try_from(number)
        .ok()
        .and_then(|index| Status::ALL.get(index).copied())
        .ok_or_else(|| WireError::new("status of a reply", "0 to 3", number))?;
    let reason = c.string("reason of a reply", MAX_REASON)?;
    Ok(Head::End(
        status,
        String::from_utf8_lossy(reason).into_owned(),
    ))
}

#[cfg(test)]
mod tests;
