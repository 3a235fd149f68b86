//! The serve protocol: what `nix-store --serve` speaks on stdin and stdout.
//!
//! ```text
//! client: CLIENT-MAGIC version          server: SERVER-MAGIC version
//! version = major * 256 + minor; both sides go on with the smaller one
//! then any number of: request (client), reply (server), strictly in order
//!
//! op request                                   reply
//!  1 QueryValidPaths lock substitute paths     set of the valid ones
//!  2 QueryPathInfos  paths                     { path info } ""
//!  3 DumpStorePath   path                      a NAR, bare
//!  7 QueryClosure    include-outputs paths     set
//!  4 ImportPaths, 9 AddToStoreNar: see `write`
//!  5, 6, 8: not spoken
//!
//! info = deriver references download-size nar-size  [ nar-hash ca sigs ]   (the rest from 2.4)
//! ```
//!
//! | what | limit |
//! | --- | --- |
//! | a store path | 4,096 bytes |
//! | a list or set | 1,000,000 elements and 64 MiB |
//! | references of a path | 1,000,000 and 16 MiB |
//! | a size of a NAR | 2^43 bytes |
//! | a content address, a signature | 1,024 bytes |
//! | signatures of a path | 1,000 |
//! | text before the server's magic | 64 KiB |
//!
//! What is longer or more, or is padded with anything but zeros, breaks the connection: where the next
//! thing begins is not known then. What is framed rightly and cannot be read costs one entry of the reply.

mod client;
pub mod engine;
pub mod extension;
mod server;
mod set;
mod write;

pub use client::{InfosDecoder, InfosStep, ServerHello, Unreadable};
pub use server::{Incoming, RequestDecoder, put_info, put_infos_end, put_set, take_client_hello};
pub use set::SetDecoder;
pub use write::{put_add_to_store_nar, put_import_end, put_import_start, take_acknowledgement};

use std::fmt;

use super::put_u64;
use crate::model::StorePath;

/// What a client says first.
pub const CLIENT_MAGIC: u64 = 0x390c_9deb;
/// What a server says first.
pub const SERVER_MAGIC: u64 = 0x5452_eecb;
/// Longest content address or signature, in bytes.
pub const MAX_CA_OR_SIG_LEN: usize = 1024;
/// Most signatures of a path.
pub const MAX_SIGS: usize = 1000;
/// Most elements of a set of store paths.
pub const MAX_SET: usize = 1_000_000;
/// Most bytes of all elements of a set of store paths.
pub const MAX_SET_BYTES: usize = 64 << 20;
/// Most bytes of the references of one path: some 200,000 of them.
pub const MAX_REFERENCES_BYTES: usize = 16 << 20;
/// Largest size of a NAR or download, in bytes: 8 TiB. Callers read sizes as signed numbers and add them
/// up, and a million of these stay below 2^63.
pub const MAX_SIZE: u64 = 1 << 43;
/// Most bytes that may come before the server's magic.
pub const MAX_BANNER: usize = 64 << 10;

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The newest version that this crate speaks (Nix 2.35).
    pub const NEWEST: Self = Self::new(2, 8);
    /// The oldest version that this crate speaks (Nix 1.8).
    pub const OLDEST: Self = Self::new(2, 0);
    /// From here path infos carry hash, content address and signatures (Nix 2.0).
    pub const WITH_HASH: Self = Self::new(2, 4);

    /// Version `major.minor`.
    #[must_use]
    pub const fn new(major: u8, minor: u8) -> Self {
        Self((major as u64) << 8 | minor as u64)
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// The version both sides go on with when the other side says `theirs`; `None` when there is
    /// none (another major version, or one before 2.0).
    #[must_use]
    pub fn negotiate(self, theirs: u64) -> Option<Self> {
        let common = Self(theirs.min(self.0));
        (theirs >> 8 == self.0 >> 8 && common >= Self::OLDEST).then_some(common)
    }

    /// Whether path infos carry hash, content address and signatures.
    #[must_use]
    pub fn has_hash(self) -> bool {
        self >= Self::WITH_HASH
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 8, self.0 & 0xff)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A read operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Which of these paths are there?
    QueryValidPaths {
        /// Keep them from being collected as long as the server runs.
        lock: bool,
        /// Fetch those that are not there from the server's own substituters first.
        substitute: bool,
        /// The paths.
        paths: Vec<StorePath>,
    },
    /// What is known about these paths?
    QueryPathInfos {
        /// The paths.
        paths: Vec<StorePath>,
    },
    /// The NAR of this path.
    DumpStorePath {
        /// The path.
        path: StorePath,
    },
    /// These paths and all they refer to.
    QueryClosure {
        /// Outputs of derivations too.
        include_outputs: bool,
        /// The paths.
        paths: Vec<StorePath>,
    },
}

const QUERY_VALID_PATHS: u64 = 1;
const QUERY_PATH_INFOS: u64 = 2;
const DUMP_STORE_PATH: u64 = 3;
const QUERY_CLOSURE: u64 = 7;

impl Request {
    /// Appends the request.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::QueryValidPaths {
                lock,
                substitute,
                paths,
            } => {
                put_u64(out, QUERY_VALID_PATHS);
                put_u64(out, u64::from(*lock));
                put_u64(out, u64::from(*substitute));
                put_set(out, paths);
            }
            Self::QueryPathInfos { paths } => {
                put_u64(out, QUERY_PATH_INFOS);
                put_set(out, paths);
            }
            Self::DumpStorePath { path } => {
                put_u64(out, DUMP_STORE_PATH);
                super::put_string(out, path.as_str().as_bytes());
            }
            Self::QueryClosure {
                include_outputs,
                paths,
            } => {
                put_u64(out, QUERY_CLOSURE);
                put_u64(out, u64::from(*include_outputs));
                put_set(out, paths);
            }
        }
    }
}

#[cfg(test)]
mod tests;
