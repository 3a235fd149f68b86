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
//! 0x5384  Delta  path start length                 the same as Chunk, as a frame that was made against so many bytes of
//!                base start length level           the NAR of the base from its offset on
//! 0x5385  Nars   count path* level                 the NARs of these paths, one behind the other
//!
//! reply   = { busy | piece } 0 status reason       reason is a text for people, empty where the status is 0
//! piece   = length bytes                           without padding
//! busy    = 2^64 - 1                               at work on a listing, a digest or a delta; not in other replies
//! status  = 0 done
//!         | 1 absent    the path is not valid (any more), or its files are gone
//!         | 2 unfit     it cannot be had in parts, or not this part
//!         | 3 failed    it could not be read
//! body    = all pieces: as they are at level 0, else one frame of zstd's, made at that level; of Nars, what is before the
//!           path that the reason is about where the status is not 0
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
//! | a level | 0 to 19, of Delta 1 to 19 |
//! | the lengths of a delta, each | 128 MiB |
//! | paths of Nars | 1,000 |
//! | busy in one reply | 720, one in 5 s at most |
//! | the window of a frame | 8 MiB, of a delta what it takes to reach all of both |
//! | a frame | 1/64 more than what is in it, and 1 KiB |

mod listing;
mod reply;

use bytes::BytesMut;

pub use listing::{parse_listing, put_entry};
pub use reply::{ReplyDecoder, ReplyStep, Status, put_busy, put_end, put_piece_head};

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

/// Most bytes of a delta, and of what it is made against.
pub const MAX_DELTA: u64 = 128 << 20;
/// Most NARs that one request asks for.
pub const MAX_NARS: usize = 1000;

const LIST: u64 = 0x5381;
const CHUNK: u64 = 0x5382;
const DIGEST: u64 = 0x5383;
const DELTA: u64 = 0x5384;
const NARS: u64 = 0x5385;

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
    /// A part of a NAR, compressed against a part of another one.
    Delta {
        /// The part.
        part: NarRange,
        /// The other one, which the client has too.
        base: NarRange,
        /// The level of zstd.
        level: u8,
    },
    /// Whole NARs.
    Nars {
        /// The paths.
        paths: Vec<StorePath>,
        /// The level of zstd, 0 for none.
        level: u8,
    },
}

/// Bytes of a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarRange {
    /// Its path.
    pub path: StorePath,
    /// Offset of the first byte in the NAR.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
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
            Self::Delta { part, base, level } => {
                put_u64(out, DELTA);
                for range in [part, base] {
                    path(out, &range.path);
                    put_u64(out, range.start);
                    put_u64(out, range.len);
                }
                put_u64(out, u64::from(*level));
            }
            Self::Nars { paths, level } => {
                put_u64(out, NARS);
                put_u64(out, paths.len() as u64);
                for of in paths {
                    path(out, of);
                }
                put_u64(out, u64::from(*level));
            }
        }
    }

    /// Whether the reply may say that the server is at work.
    #[must_use]
    pub fn may_be_busy(&self) -> bool {
        !matches!(self, Self::Chunk { .. } | Self::Nars { .. })
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
        let is_own = self.is_extended && matches!(op, Ok(LIST | CHUNK | DIGEST | DELTA | NARS));
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
    if op == NARS {
        return nars(c);
    }
    let path = path(c)?;
    Ok(match op {
        LIST => {
            let level = level(c.u64()?, 0);
            fit(path, level, |path, level| Request::List { path, level })
        }
        CHUNK => {
            let (start, len, level) = (c.u64()?, c.u64()?, level(c.u64()?, 0));
            fit(path, level, |path, level| Request::Chunk {
                path,
                start,
                len,
                level,
            })
        }
        DELTA => {
            let (start, len, base) = (c.u64()?, c.u64()?, self::path(c)?);
            let (base_start, base_len, level) = (c.u64()?, c.u64()?, level(c.u64()?, 1));
            let both = path.and_then(|path| Ok((path, base?)));
            fit(both, level, |(path, base), level| Request::Delta {
                part: NarRange { path, start, len },
                base: NarRange {
                    path: base,
                    start: base_start,
                    len: base_len,
                },
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

fn nars(c: &mut Cursor<'_>) -> Result<Incoming, Stop> {
    let count = c.u64()?;
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= MAX_NARS);
    let Some(count) = count else {
        let want = format!("at most {MAX_NARS}");
        return Err(WireError::new("number of NARs", want, "more").into());
    };
    let mut paths = Ok(Vec::new());
    for _ in 0..count {
        let next = path(c)?;
        paths = paths.and_then(|mut paths: Vec<_>| {
            paths.push(next?);
            Ok(paths)
        });
    }
    let level = level(c.u64()?, 0);
    Ok(fit(paths, level, |paths, level| Request::Nars {
        paths,
        level,
    }))
}

fn path(c: &mut Cursor<'_>) -> Result<Result<StorePath, StorePathError>, Stop> {
    let path = c.string("store path", MAX_PATH_LEN)?;
    Ok(StorePath::from_bytes(path))
}

fn level(number: u64, min: u8) -> Result<u8, String> {
    match u8::try_from(number) {
        Ok(level) if (min..=MAX_LEVEL).contains(&level) => Ok(level),
        _ => Err(format!(
            "level of zstd: expected {min} to {MAX_LEVEL}, got {number}"
        )),
    }
}

fn fit<T>(
    paths: Result<T, StorePathError>,
    level: Result<u8, String>,
    request: impl FnOnce(T, u8) -> Request,
) -> Incoming {
    match (paths, level) {
        (Ok(paths), Ok(level)) => Incoming::Extension(request(paths, level)),
        (Err(error), _) => Incoming::Unfit(error.to_string()),
        (_, Err(reason)) => Incoming::Unfit(reason),
    }
}

#[cfg(test)]
mod tests;
