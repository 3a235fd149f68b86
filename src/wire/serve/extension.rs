//! The extension of the serve protocol by which a host that runs our program sends parts of NARs: to a client that has no
//! shell there, in one process.
//!
//! A server that speaks it says so in answer to an ordinary QueryValidPaths for [`feature_path`], a store path that no store
//! has: it counts the path as valid. `nix-store --serve` of any version answers that it is not, and a client that never asks
//! never notices the extension.
//!
//! Such a server also knows names. Asked by QueryValidPaths for a [`name_question`], a store path that no store has either, it
//! adds the valid path that has the same hash part, if there is one. For any other server that is an ordinary path that is not
//! valid.
//!
//! Requests are those of the serve protocol, and these:
//!
//! ```text
//! op      request                                  body of the reply
//! 0x5381  List   path level                        listing
//! 0x5382  Chunk  path start length level           so many bytes of the NAR from that offset on
//! 0x5383  Digest path start length contents-only   SHA-256 of them (32 bytes), or of what of them is from files
//! 0x5384  Delta  path start length                 the same as Chunk, as a frame that was made against so many bytes of
//!                base name start length level      the file of that name of the base, from its offset on
//! 0x5385  Nars   count path* level                 the NARs of these paths, one behind the other
//! 0x5386  Survey count { path names } level        what there is of these paths
//! 0x5387  Parts  count path* count part* level     these parts of their NARs, one behind the other
//!
//! part    = index start length                     of the path with that index, from 0 on: so many bytes of its NAR
//! names   = a string: names, each with a NUL behind it
//!
//! reply   = { busy | piece } 0 status reason       reason is a text for people, empty where the status is 0
//! piece   = length bytes                           without padding
//! busy    = 2^64 - 1                               at work on a listing, a digest, a delta or a survey; not in other replies
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
//!
//! survey  = { length listing digest* }             for each path: its listing, of so many bytes, none where it cannot be
//!                                                  listed; for each of its names the SHA-256 of that file, 32 zeros where
//!                                                  there is none or it cannot be read
//! ```
//!
//! Requests may be written ahead. Replies come in their order, and whatever the status is, the next reply follows: unlike a
//! dump, what cannot be read costs neither the connection nor any other reply.
//!
//! | what | limit |
//! | --- | --- |
//! | a piece | 1 to 262,144 bytes |
//! | a reason | 1,024 bytes |
//! | a listing, all listings of a survey | 200,000 entries and 32 MiB |
//! | a name of a file | 16,384 bytes |
//! | names of a survey | 50,000, and 4 MiB of them |
//! | a level | 0 to 19, of Delta 1 to 19 |
//! | the lengths of a delta, each | 64 MiB |
//! | paths of Nars, of Parts; of Survey | 1,000; 64 |
//! | parts of Parts | 4,096, of 64 MiB together |
//! | busy in one reply | 720, one in 5 s at most |
//! | the window of a frame | 8 MiB, of a delta what it takes to reach all of both |
//! | a frame | 1/64 more than what is in it, and 1 KiB |

mod incoming;
mod listing;
mod reply;
mod request;
mod survey;

pub use incoming::{Incoming, RequestDecoder};
pub use listing::{parse_listing, put_entry};
pub use reply::{ReplyDecoder, ReplyStep, Status, put_busy, put_end, put_piece_head};
pub use request::{FilePart, NarPart, NarRange, Request, SurveyedPath};
pub use survey::{MAX_SURVEY, NO_DIGEST, SurveyOf, parse_survey, put_survey_head};

use crate::model::{HashPart, StorePath};
use crate::wire::nar::{MAX_DEPTH, MAX_NAME};

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
const FEATURE: &str = "00000000000000000000000000000000-ssh-substituter-serve-extension-2";

/// The name of the paths that ask for names.
const NAME_QUESTION: &str = "ssh-substituter-which-name";

/// Most bytes of a delta, and of what it is made against: the host holds both, and as much again as zstd's tables take.
pub const MAX_DELTA: u64 = 64 << 20;
/// Most paths that one request asks for NARs or parts of.
pub const MAX_NARS: usize = 1000;
/// Longest name of a file below the root, in bytes.
pub const MAX_FILE_NAME: usize = MAX_DEPTH * (MAX_NAME + 1);
/// Most paths of a survey; most files of all of them, and bytes of their names.
pub const MAX_SURVEYED: usize = 64;
/// See [`MAX_SURVEYED`].
pub const MAX_NAMES: usize = 50_000;
/// See [`MAX_SURVEYED`].
pub const MAX_NAMES_LEN: usize = 4 << 20;
/// Most parts of NARs that one request asks for, and how many bytes they have together.
pub const MAX_PARTS: usize = 4096;
/// See [`MAX_PARTS`].
pub const MAX_PARTS_LEN: u64 = 64 << 20;

const LIST: u64 = 0x5381;
const CHUNK: u64 = 0x5382;
const DIGEST: u64 = 0x5383;
const DELTA: u64 = 0x5384;
const NARS: u64 = 0x5385;
const SURVEY: u64 = 0x5386;
const PARTS: u64 = 0x5387;

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

/// The path in `store_dir` that asks for the name of the path with this hash part. `None` where that is no folder of a store.
#[must_use]
pub fn name_question(store_dir: &str, hash: HashPart) -> Option<StorePath> {
    hash.with_name(store_dir, NAME_QUESTION)
}

/// Whether a path asks for a name, in any store directory.
#[must_use]
pub fn is_name_question(path: &StorePath) -> bool {
    path.name() == NAME_QUESTION
}

/// The longest frame that a body of `len` bytes may come as, in bytes. What zstd cannot compress grows by less.
#[must_use]
pub fn max_frame_len(len: u64) -> u64 {
    len.saturating_add(len / 64).saturating_add(1024)
}

#[cfg(test)]
mod tests;
