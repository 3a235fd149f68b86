//! A typed client of one serve connection ([`Connection`]), of one shell ([`Shell`]), and of one serve connection whose host
//! has our program and sends parts of NARs ([`ExtensionChannel`]). [`SegmentReader`] is either of the latter two.
//!
//! All stand on a link (`link`): one channel to a program on a host. Requests are written ahead, replies
//! come in order. A connection that broke, or whose reply was not read to its end, is poisoned and never
//! used again: what would come next on it is unknown.

mod blocks;
mod compressible;
mod differences;
mod error;
mod inflater;
mod link;
mod segment_reader;
mod serve;
mod shell;
mod verdict;

pub use blocks::{BlockConnection, BlockOptions, BlockWriter, Compress, SentBlock, open_blocks};
pub use compressible::{SLOW, is_incompressible};
pub use differences::{BasePart, Difference, FileOfPath};
pub(crate) use error::HANDSHAKE;
pub use error::{RemoteError, RemoteErrorKind};
pub use link::{Latency, Writer, readable};
pub use segment_reader::SegmentReader;
pub use serve::{
    Acknowledgements, ConnectOptions, Connection, ExtensionChannel, FrameReply, LearntProgram,
    WriteConnection, connect, connect_for_writing, lock_valid_paths, open_extension,
};
pub(crate) use serve::{closure, dump, extension_question, path_infos, valid_paths};
pub use shell::{
    CommandOutput, DumpsStep, FrameError, NoShell, ReceivedSegment, Shell, ShellError,
    ShellOptions, Surveyed, decompress, open_shell,
};
pub use verdict::Verdict;

pub use crate::wire::serve::{Request, Unreadable, Version};
