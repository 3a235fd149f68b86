//! A shell on a host, for reading the files of store paths in chunks.
//!
//! A serve loop sends a NAR from its beginning and over one channel only, which moves no more than ssh's window
//! for each round trip. With a shell, a NAR is assembled here from a listing and from ranges of files, which
//! may come over several channels and from several hosts. Only the usual tools are needed on the host;
//! [`open_shell`] checks that they are there.
//!
//! As with a serve loop, requests are written ahead and replies come in order, and a shell that
//! broke is poisoned.

mod assembly;
mod blocks;
mod command;
mod digest;
mod dumps;
mod frame;
mod list;
mod listing;
mod open;
mod output;
mod patches;
mod store_locations;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};

pub use dumps::DumpsStep;
pub use frame::{FrameError, decompress};
pub use open::{NoShell, ShellError, ShellOptions, open_shell};
pub use patches::{CommandOutput, Surveyed};

use super::link::{Latency, Link, ReadKind};
use super::{RemoteError, RemoteErrorKind};
use crate::model::StorePath;
use crate::wire::nar::layout::{Layout, Segment};
use assembly::{Assembly, Step};
use digest::Digest;
use store_locations::StoreLocations;

/// The longest listing that is read, in bytes.
const LISTING_MAX: usize = 32 << 20;

/// The most file system objects in a listing.
const ENTRIES_MAX: usize = 200_000;

const LISTING: &str = "a listing of files";
const SEGMENT: &str = "a part of a NAR";
const DIGEST: &str = "the digest of a part of a NAR";

/// One shell on one host that has proven to be one.
pub struct Shell {
    link: Link,
    nonce: String,
    locations: StoreLocations,
    /// The store directory whose locations the shell knows.
    set_up_for: Option<String>,
    /// The number of the next command.
    next: u32,
    /// The path whose folder the shell is in. Meanwhile Nix usually does not collect the path: where the
    /// garbage collector sees all processes, their working folders are roots.
    current_path: Option<StorePath>,
    /// The replies that are outstanding, in order.
    pending: VecDeque<PendingReply>,
    broken: bool,
    received: Arc<AtomicU64>,
    has_zstd: bool,
}

/// A segment that came.
#[derive(Debug)]
pub struct ReceivedSegment {
    /// Framing included: exactly its length.
    pub bytes: Bytes,
    /// How many bytes came over the link for it.
    pub wire_len: u64,
}

/// A reply that is outstanding.
enum PendingReply {
    Segment(Box<Assembly>),
    Digest(Digest, Segment),
    /// All that a command prints.
    Output(output::Output, StorePath),
    /// Several NARs.
    Dumps(Box<dumps::Dumps>),
}

impl PendingReply {
    fn path(&self) -> &StorePath {
        match self {
            Self::Segment(assembly) => assembly.segment.layout().path(),
            Self::Digest(_, segment) => segment.layout().path(),
            Self::Output(_, path) => path,
            Self::Dumps(dumps) => &dumps.first,
        }
    }
}

impl Shell {
    fn new(link: Link, nonce: String, locations: StoreLocations, has_zstd: bool) -> Self {
        Self {
            link,
            nonce,
            locations,
            set_up_for: None,
            next: 0,
            current_path: None,
            pending: VecDeque::new(),
            broken: false,
            received: Arc::default(),
            has_zstd,
        }
    }

    /// The host, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.link.host
    }

    /// Whether it can compress what it sends.
    #[must_use]
    pub fn has_zstd(&self) -> bool {
        self.has_zstd
    }

    /// How quickly it has answered.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.link.latency
    }

    /// Whether no reply is outstanding and nothing went wrong: only then may the shell be used by others.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.broken && self.pending.is_empty() && self.link.input.is_empty()
    }

    /// Whether the remote has ended the shell while it lay idle. Does not wait.
    #[must_use]
    pub fn is_closed_by_remote(&mut self) -> bool {
        self.link.is_closed_by_remote()
    }

    /// How many segments and digests are outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// How many bytes have come of the oldest outstanding segment.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The same to look at while [`Shell::segment`] waits.
    #[must_use]
    pub fn meter(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// Sets up the shell for paths in this store directory.
    fn set_up(&mut self, store_dir: &str) {
        if self.set_up_for.as_deref() != Some(store_dir) {
            let line = command::set_up(&self.locations.dirs(store_dir));
            self.link.output.send_bytes(line);
            self.set_up_for = Some(store_dir.to_owned());
        }
    }

    /// Asks for a segment, which then comes by [`Shell::segment`]; with a `level` (of `zstd`) compressed on its way.
    /// Several may be asked for ahead; they come in the same order. The path must be where it was listed, on this host
    /// or another.
    pub fn request(&mut self, segment: &Segment, level: Option<u8>) {
        let mut lines = Vec::new();
        self.enter(&mut lines, segment.layout());
        let number = self.number();
        let name = segment.layout().path().base_name().as_bytes();
        let due = command::read(&mut lines, name, segment, level, number);
        let assembly = Assembly::new(segment.clone(), number, due, level.is_some());
        self.pending
            .push_back(PendingReply::Segment(Box::new(assembly)));
        self.link.output.send_bytes(lines);
    }

    /// Asks for the SHA-256 of a segment as the host has it, framing included. It then comes by
    /// [`Shell::digest`], in its turn among the segments that were asked for. Costs the host a process for each
    /// file.
    pub fn request_digest(&mut self, segment: &Segment) {
        self.request_digest_of(segment, true);
    }

    /// As [`Shell::request_digest`], but of what comes from files alone, which costs the host a few processes.
    pub fn request_contents_digest(&mut self, segment: &Segment) {
        self.request_digest_of(segment, false);
    }

    fn request_digest_of(&mut self, segment: &Segment, framing: bool) {
        let mut lines = Vec::new();
        self.enter(&mut lines, segment.layout());
        let number = self.number();
        let name = segment.layout().path().base_name().as_bytes();
        command::digest(&mut lines, name, segment, framing, number);
        let owed = PendingReply::Digest(Digest::new(number), segment.clone());
        self.pending.push_back(owed);
        self.link.output.send_bytes(lines);
    }

    /// Goes to the folder that the files of a path are read from.
    fn enter(&mut self, lines: &mut Vec<u8>, layout: &Layout) {
        let path = layout.path();
        self.set_up(path.store_dir());
        if self.current_path.as_ref() != Some(path) {
            let name = path.base_name().as_bytes();
            command::enter(lines, name, layout.is_directory());
            self.current_path = Some(path.clone());
        }
    }

    /// The next outstanding segment. Empty when there is none. May be dropped and called again.
    ///
    /// # Errors
    /// When the link breaks or falls silent, the files are not what was listed
    /// ([`RemoteErrorKind::NotAsListed`]), or the host did not compress them rightly
    /// ([`RemoteErrorKind::BadFrame`]). The shell is unusable then.
    pub async fn segment(&mut self) -> Result<ReceivedSegment, RemoteError> {
        if let Some(error) = self.earlier_failure() {
            return Err(error);
        }
        loop {
            let Some(PendingReply::Segment(oldest)) = self.pending.front_mut() else {
                return Ok(ReceivedSegment {
                    bytes: Bytes::new(),
                    wire_len: 0,
                });
            };
            let (taken, step) = oldest.step(self.link.input.peek(), &self.nonce);
            self.link.input.buffer().advance(taken);
            self.received.store(oldest.len(), Ordering::Relaxed);
            match step {
                Step::NeedMore => self.fill(SEGMENT).await?,
                Step::Complete => {
                    self.received.store(0, Ordering::Relaxed);
                    self.link.finish_reply();
                    let Some(PendingReply::Segment(done)) = self.pending.pop_front() else {
                        continue;
                    };
                    let (bytes, wire_len) = done.into_parts();
                    return Ok(ReceivedSegment {
                        bytes: bytes.into(),
                        wire_len,
                    });
                }
                Step::Wrong(what) => {
                    self.broken = true;
                    return Err(self.wrong(what));
                }
                Step::BadFrame(what) => {
                    self.broken = true;
                    return Err(self.link.error(RemoteErrorKind::BadFrame(what)));
                }
            }
        }
    }

    /// The next outstanding digest. `None` when there is none, or when the host could not read the files or has no
    /// `sha256sum`; the shell can be used further then.
    ///
    /// # Errors
    /// When the link breaks or falls silent, or what comes is no end of a digest. The shell is of no use
    /// then.
    pub async fn digest(&mut self) -> Result<Option<[u8; 32]>, RemoteError> {
        if let Some(error) = self.earlier_failure() {
            return Err(error);
        }
        loop {
            let Some(PendingReply::Digest(oldest, _)) = self.pending.front() else {
                return Ok(None);
            };
            match oldest.step(self.link.input.peek(), &self.nonce) {
                digest::Step::NeedMore => self.fill(DIGEST).await?,
                digest::Step::Done(digest, len) => {
                    self.link.input.buffer().advance(len);
                    self.link.finish_reply();
                    self.pending.pop_front();
                    return Ok(digest);
                }
                digest::Step::Wrong(what) => {
                    self.broken = true;
                    return Err(self.wrong(what));
                }
            }
        }
    }

    fn earlier_failure(&self) -> Option<RemoteError> {
        self.broken
            .then(|| self.wrong("an earlier part of it failed"))
    }

    async fn fill(&mut self, doing: &'static str) -> Result<(), RemoteError> {
        let filled = self.link.fill(doing, ReadKind::Stream).await;
        self.broken |= filled.is_err();
        filled
    }

    /// Leaves the folder of the path that was read last, which may be collected again.
    pub fn leave_path(&mut self) {
        if self.current_path.take().is_some() {
            self.link.output.send_bytes(b"cd /\n".to_vec());
        }
    }

    fn number(&mut self) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        number
    }

    fn wrong(&self, what: &'static str) -> RemoteError {
        self.link
            .error(match self.pending.front().map(PendingReply::path) {
                Some(path) => RemoteErrorKind::NotAsListed {
                    path: path.clone(),
                    what,
                },
                None => RemoteErrorKind::Disconnected {
                    doing: LISTING,
                    source: None,
                    link_output: String::new(),
                },
            })
    }
}
