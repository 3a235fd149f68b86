//! One channel by which parts of NARs come from a host: a shell, or a serve loop of our program. What it sends of paths that
//! other versions are here of is in `differences`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::BytesMut;

use super::{DumpsStep, ExtensionChannel, Latency, ReceivedSegment, RemoteError, Shell};
use crate::config::host::Host;
use crate::model::{HashPart, StorePath};
use crate::wire::nar::layout::{Layout, Segment};

/// Brings listings, segments and digests in the order in which they were asked for.
pub enum SegmentReader {
    /// A shell, whose usual tools read files.
    Shell(Box<Shell>),
    /// A serve loop that speaks the extension.
    Extension(Box<ExtensionChannel>),
}

/// The same call of either.
macro_rules! either {
    ($self:ident, $reader:ident => $call:expr) => {
        match $self {
            Self::Shell($reader) => $call,
            Self::Extension($reader) => $call,
        }
    };
}

impl SegmentReader {
    /// The host, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        either!(self, reader => reader.host())
    }

    /// Whether it can compress what it sends.
    #[must_use]
    pub fn has_zstd(&self) -> bool {
        match self {
            Self::Shell(shell) => shell.has_zstd(),
            Self::Extension(_) => true,
        }
    }

    /// Whether many small files cost the host little more than few large ones: a shell starts programs for them.
    #[must_use]
    pub fn reads_small_files_well(&self) -> bool {
        matches!(self, Self::Extension(_))
    }

    /// How quickly it has answered.
    #[must_use]
    pub fn latency(&self) -> Latency {
        either!(self, reader => reader.latency())
    }

    /// Whether no reply is outstanding and nothing went wrong: only then may it be used by others.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        either!(self, reader => reader.is_clean())
    }

    /// Whether the remote has ended it while it lay idle. Does not wait.
    #[must_use]
    pub fn is_closed_by_remote(&mut self) -> bool {
        either!(self, reader => reader.is_closed_by_remote())
    }

    /// How many bytes have come of the oldest outstanding segment; to look at while [`SegmentReader::segment`] waits.
    #[must_use]
    pub fn meter(&self) -> Arc<AtomicU64> {
        either!(self, reader => reader.meter())
    }

    /// Lists the files of `path`; see [`Shell::list`] and [`ExtensionChannel::list`].
    ///
    /// # Errors
    /// When the link breaks, falls silent, or what comes is no listing.
    pub async fn list(&mut self, path: &StorePath) -> Result<Option<Layout>, RemoteError> {
        either!(self, reader => reader.list(path).await)
    }

    /// The paths in the host's store that have one of these hash parts; see [`Shell::names`] and [`ExtensionChannel::names`].
    /// A shell may name what is not valid.
    ///
    /// # Errors
    /// When the link breaks, falls silent, or what comes is no answer.
    pub async fn names(
        &mut self,
        store_dir: &str,
        hashes: &[HashPart],
    ) -> Result<Vec<StorePath>, RemoteError> {
        either!(self, reader => reader.names(store_dir, hashes).await)
    }

    /// The log of how this derivation was built; see [`Shell::build_log`]. Our program has no logs.
    ///
    /// # Errors
    /// When the link breaks, falls silent, or what comes is no answer.
    pub async fn build_log(
        &mut self,
        store: Option<&str>,
        derivation: &StorePath,
        max: usize,
    ) -> Result<Option<Vec<u8>>, RemoteError> {
        match self {
            Self::Shell(shell) => shell.build_log(store, derivation, max).await,
            Self::Extension(_) => Ok(None),
        }
    }

    /// Asks for a segment, with a `level` (of zstd) compressed on its way.
    pub fn request(&mut self, segment: &Segment, level: Option<u8>) {
        either!(self, reader => reader.request(segment, level));
    }

    /// Asks for the SHA-256 of a segment, framing included.
    pub fn request_digest(&mut self, segment: &Segment) {
        either!(self, reader => reader.request_digest(segment));
    }

    /// Asks for the SHA-256 of what of a segment comes from files.
    pub fn request_contents_digest(&mut self, segment: &Segment) {
        either!(self, reader => reader.request_contents_digest(segment));
    }

    /// The next outstanding segment. May be dropped and called again.
    ///
    /// # Errors
    /// As [`Shell::segment`] and [`ExtensionChannel::segment`]. It is to be dropped then.
    pub async fn segment(&mut self) -> Result<ReceivedSegment, RemoteError> {
        either!(self, reader => reader.segment().await)
    }

    /// The next outstanding digest; `None` when the host cannot tell.
    ///
    /// # Errors
    /// When the link breaks or falls silent, or what comes is no digest. It is to be dropped then.
    pub async fn digest(&mut self) -> Result<Option<[u8; 32]>, RemoteError> {
        either!(self, reader => reader.digest().await)
    }

    /// Asks the store of `host` for the NARs of these paths, of `len` bytes together, compressed as one at level `level` (of
    /// zstd).
    pub fn request_dumps(&mut self, host: &Host, paths: &[StorePath], len: u64, level: u8) {
        match self {
            Self::Shell(shell) => shell.request_dumps(host, paths, len, level),
            Self::Extension(channel) => channel.request_nars(paths.to_vec(), len, level),
        }
    }

    /// Appends what comes next of the oldest run of NARs. May be dropped and called again.
    ///
    /// # Errors
    /// As [`Shell::dumps`] and [`ExtensionChannel::nars`]. It is to be dropped then.
    pub async fn dumps(&mut self, out: &mut BytesMut) -> Result<DumpsStep, RemoteError> {
        match self {
            Self::Shell(shell) => shell.dumps(out).await,
            Self::Extension(channel) => channel.nars(out).await,
        }
    }

    /// It will lie idle: nothing at the host is held meanwhile.
    pub fn leave_path(&mut self) {
        if let Self::Shell(shell) = self {
            shell.leave_path();
        }
    }
}
