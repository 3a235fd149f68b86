//! NAR, the Nix archive: one file system object, reproducibly.
//!
//! ```text
//! nar       = "nix-archive-1" node
//! node      = "(" "type" ( regular | symlink | directory ) ")"
//! regular   = "regular" [ "executable" "" ] "contents" BYTES
//! symlink   = "symlink" "target" TARGET
//! directory = "directory" { "entry" "(" "name" NAME "node" node ")" }
//! ```
//!
//! Every token is a padded string. Entries come in strictly increasing byte order of their names.
//! Only the executable bit is kept of a file's mode; no times, no owners.
//!
//! | what | limit |
//! | --- | --- |
//! | NAME | 1 to 255 bytes; not `.` or `..`; no `/`, no NUL |
//! | TARGET | 1 to 4,095 bytes, no NUL |
//! | nodes within each other | 64, the root being the first (Nix 2.34.7 and newer, `libutil/archive.cc`) |
//! | any other token but BYTES | 32 bytes |

mod completion;
mod decode;
mod encode;
pub mod layout;
mod listing;

pub use completion::{Checkpoint, Completion, NOTICE, failing_nar};
pub use decode::{Decoder, Event, NarError};
pub use encode::{
    directory_end, directory_start, entry_end, entry_start, file_end, file_start, magic, symlink,
};
pub use listing::{Listing, ListingError};

/// The token that every NAR begins with.
pub const MAGIC: &[u8] = b"nix-archive-1";
/// Longest name of an entry, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest target of a symlink, in bytes.
pub const MAX_TARGET: usize = 4095;
/// How many nodes may stand within each other: what is in the 64th directory is one too many.
pub const MAX_DEPTH: usize = 64;
/// Longest token that is neither a name, a target nor contents, in bytes.
pub const MAX_TAG: usize = 32;

#[cfg(test)]
pub(crate) mod tests;
