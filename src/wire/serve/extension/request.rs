//! What a client asks for beyond the serve protocol.

use super::{CHUNK, DELTA, DIGEST, LIST, NARS, PARTS, SURVEY};
use crate::model::StorePath;
use crate::wire::{put_string, put_u64};

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
    /// A part of a NAR, compressed against a part of a file of another path.
    Delta {
        /// The part.
        part: NarRange,
        /// What the client has too.
        base: FilePart,
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
    /// The objects of some paths, and the SHA-256 of some of their files.
    Survey {
        /// The paths, and which files.
        paths: Vec<SurveyedPath>,
        /// The level of zstd, 0 for none.
        level: u8,
    },
    /// Parts of some NARs as one.
    Parts {
        /// The paths.
        paths: Vec<StorePath>,
        /// The parts, in the order in which they come.
        parts: Vec<NarPart>,
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

/// Bytes of a file of a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// The store path.
    pub path: StorePath,
    /// The file's path below the root, parts separated by slashes; empty when it is the root.
    pub name: Vec<u8>,
    /// Offset of the first byte in the file.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
}

/// Bytes of one of several NARs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NarPart {
    /// Which of the paths.
    pub index: usize,
    /// Offset of the first byte in its NAR.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
}

/// A path that is listed, and which files of it are hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedPath {
    /// The path.
    pub path: StorePath,
    /// Paths of files below the root, each with a NUL behind it.
    pub names: Vec<u8>,
}

impl SurveyedPath {
    /// The paths of files below the root.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.names.split_inclusive(|byte| *byte == 0);
        names.map(|name| name.strip_suffix(b"\0").unwrap_or(name))
    }
}

impl Request {
    /// Appends the request.
    pub fn put(&self, out: &mut Vec<u8>) {
        let put_path = |out: &mut Vec<u8>, path: &StorePath| {
            put_string(out, path.as_str().as_bytes());
        };
        let put_paths = |out: &mut Vec<u8>, paths: &[StorePath]| {
            put_u64(out, paths.len() as u64);
            paths.iter().for_each(|path| put_path(out, path));
        };
        let level = match self {
            Self::List { path, level } => {
                put_u64(out, LIST);
                put_path(out, path);
                *level
            }
            Self::Chunk {
                path,
                start,
                len,
                level,
            } => {
                put_u64(out, CHUNK);
                put_path(out, path);
                put_u64(out, *start);
                put_u64(out, *len);
                *level
            }
            Self::Digest {
                path,
                start,
                len,
                contents_only,
            } => {
                put_u64(out, DIGEST);
                put_path(out, path);
                put_u64(out, *start);
                put_u64(out, *len);
                u8::from(*contents_only)
            }
            Self::Delta { part, base, level } => {
                put_u64(out, DELTA);
                put_path(out, &part.path);
                put_u64(out, part.start);
                put_u64(out, part.len);
                put_path(out, &base.path);
                put_string(out, &base.name);
                put_u64(out, base.start);
                put_u64(out, base.len);
                *level
            }
            Self::Nars { paths, level } => {
                put_u64(out, NARS);
                put_paths(out, paths);
                *level
            }
            Self::Survey { paths, level } => {
                put_u64(out, SURVEY);
                put_u64(out, paths.len() as u64);
                for surveyed in paths {
                    put_path(out, &surveyed.path);
                    put_string(out, &surveyed.names);
                }
                *level
            }
            Self::Parts {
                paths,
                parts,
                level,
            } => {
                put_u64(out, PARTS);
                put_paths(out, paths);
                put_u64(out, parts.len() as u64);
                for part in parts {
                    put_u64(out, part.index as u64);
                    put_u64(out, part.start);
                    put_u64(out, part.len);
                }
                *level
            }
        };
        put_u64(out, u64::from(level));
    }

    /// Whether the reply may say that the server is at work.
    #[must_use]
    pub fn may_be_busy(&self) -> bool {
        !matches!(
            self,
            Self::Chunk { .. } | Self::Nars { .. } | Self::Parts { .. }
        )
    }
}
