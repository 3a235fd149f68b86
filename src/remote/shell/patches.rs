//! What a shell with `zstd` sends beside segments: listings and digests ahead, groups of files, and files as patches
//! against files of another path. Each is one command whose output is taken whole by [`Shell::output`], in its turn among
//! what was asked for.

use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};

use super::output::{Output, Step};
use super::{ENTRIES_MAX, LISTING, LISTING_MAX, PendingReply, SEGMENT, Shell, command, listing};
use crate::model::StorePath;
use crate::remote::inflater::Inflater;
use crate::remote::{RemoteError, RemoteErrorKind};
use crate::wire::WireError;
use crate::wire::nar::layout::{FileRange, Layout};

/// A line of `sha256sum`: 64 digits, two characters, the name.
const DIGEST_LINE: usize = 66;

/// What a command printed.
#[derive(Debug)]
pub struct CommandOutput {
    /// All of it.
    pub bytes: Bytes,
    /// The status that it ended with, as its last digit.
    pub status: u8,
}

/// A file of a host, by its contents.
#[derive(Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Its path below the root of the store path.
    pub path: Vec<u8>,
    /// The SHA-256 of its contents.
    pub digest: [u8; 32],
}

/// The most that `zstd` makes of so many bytes, and some more (`ZSTD_compressBound`).
fn frame_max(len: u64) -> usize {
    usize::try_from(len + len / 128).map_or(usize::MAX, |len| len.saturating_add(64 << 10))
}

impl Shell {
    /// Asks for the files of a path; [`Shell::output`], then [`CommandOutput::layout`].
    pub fn request_listing(&mut self, path: &StorePath) {
        self.set_up(path.store_dir());
        let number = self.number();
        let line = command::list_compressed(path.base_name().as_bytes(), number, LISTING_MAX);
        self.request_output(path, number, frame_max(LISTING_MAX as u64), line);
    }

    /// Asks for the digests of those of these files that the path has on the host; [`Shell::output`], then
    /// [`CommandOutput::digests`]. Costs the host reading them.
    pub fn request_file_digests<'a>(
        &mut self,
        path: &StorePath,
        files: impl Iterator<Item = &'a [u8]>,
    ) {
        self.set_up(path.store_dir());
        let number = self.number();
        let mut max = 0;
        let files = files.inspect(|file| max += (DIGEST_LINE + file.len() + 1) as u64);
        let line = command::file_digests(path.base_name().as_bytes(), files, number);
        self.request_output(path, number, frame_max(max), line);
    }

    /// Asks for the contents of these ranges of files, one behind the other, as one frame of level `level`;
    /// [`Shell::output`], then [`CommandOutput::contents`].
    pub fn request_ranges(&mut self, layout: &Layout, ranges: &[FileRange], level: u8) {
        let mut lines = Vec::new();
        self.enter(&mut lines, layout);
        let number = self.number();
        let len = ranges.iter().map(|range| range.len).sum();
        let root = layout.path().base_name().as_bytes();
        command::read_ranges(&mut lines, root, ranges.iter(), level, number);
        self.request_output(layout.path(), number, frame_max(len), lines);
    }

    /// Asks for a whole file as a frame that was made against the file `base_file` of the path `base`;
    /// [`Shell::output`]: the frame, and 0 as its status. Takes the host memory for both files.
    pub fn request_patch(
        &mut self,
        layout: &Layout,
        file: &FileRange,
        (base, base_file): (&StorePath, &[u8]),
        level: u8,
    ) {
        let mut lines = Vec::new();
        self.enter(&mut lines, layout);
        let number = self.number();
        let name = match file.path.is_empty() {
            true => layout.path().base_name().as_bytes(),
            false => &file.path,
        };
        let base = (base.base_name().as_bytes(), base_file);
        command::patch(&mut lines, name, base, level, number);
        self.request_output(layout.path(), number, frame_max(file.size), lines);
    }

    fn request_output(&mut self, path: &StorePath, number: u32, max: usize, lines: Vec<u8>) {
        let output = Output::new(&self.nonce, number, max);
        self.pending
            .push_back(PendingReply::Output(output, path.clone()));
        self.link.output.send_bytes(lines);
    }

    /// The next outstanding output. `None` when there is none. May be dropped and called again.
    ///
    /// # Errors
    /// When the link breaks or falls silent, or what comes has no end. The shell is unusable then.
    pub async fn output(&mut self) -> Result<Option<CommandOutput>, RemoteError> {
        if let Some(error) = self.earlier_failure() {
            return Err(error);
        }
        loop {
            let Some(PendingReply::Output(oldest, _)) = self.pending.front_mut() else {
                return Ok(None);
            };
            let input = self.link.input.peek();
            let step = oldest.step(input);
            self.received.store(input.len() as u64, Ordering::Relaxed);
            match step {
                Step::NeedMore => self.fill(SEGMENT).await?,
                Step::Done(len, status) => {
                    self.received.store(0, Ordering::Relaxed);
                    let bytes = self.link.input.buffer().split_to(len).freeze();
                    self.link.input.buffer().advance(command::TRAILER);
                    self.link.finish_reply();
                    self.pending.pop_front();
                    return Ok(Some(CommandOutput { bytes, status }));
                }
                Step::TooLong => {
                    self.broken = true;
                    let source = WireError::new("output of a command", "its end", "more");
                    let doing = LISTING;
                    return Err(self.link.error(RemoteErrorKind::Protocol { doing, source }));
                }
            }
        }
    }
}

impl CommandOutput {
    /// The layout that a listing gives; `None` where the path is not there, cannot be listed whole, or holds what no NAR
    /// can.
    #[must_use]
    pub fn layout(&self, path: &StorePath) -> Option<Layout> {
        let listing = inflate(&self.bytes, LISTING_MAX)?;
        if listing.len() >= LISTING_MAX {
            return None;
        }
        let listing = listing.strip_suffix(b"0").filter(|l| l.ends_with(b"\0"))?;
        let entries = listing::parse(listing, ENTRIES_MAX).ok()?;
        Layout::new(path.clone(), entries).ok()
    }

    /// The digests that came, in the order in which they were asked for; `None` where the output is of another kind.
    #[must_use]
    pub fn digests(&self) -> Option<Vec<FileDigest>> {
        let lines = inflate(&self.bytes, LISTING_MAX)?;
        let mut digests = Vec::new();
        for line in lines.split_inclusive(|byte| *byte == 0) {
            let line = line.strip_suffix(b"\0")?;
            let (digest, name) = line.split_at_checked(DIGEST_LINE)?;
            let digest = data_encoding::HEXLOWER.decode(&digest[..64]).ok()?;
            digests.push(FileDigest {
                path: name.strip_prefix(b"./-").map_or_else(
                    || name.to_vec(),
                    // Added so that it is no option.
                    |rest| [b"-", rest].concat(),
                ),
                digest: digest.try_into().ok()?,
            });
        }
        Some(digests)
    }

    /// `len` bytes of files; `None` where the files could not be read, have other lengths, or were not compressed rightly.
    #[must_use]
    pub fn contents(&self, len: u64) -> Option<Vec<u8>> {
        if self.status != 0 {
            return None;
        }
        let len = usize::try_from(len).ok()?.checked_add(1)?;
        let mut contents = super::frame::decompress(&self.bytes, b"", len).ok()?;
        // What the commands ended with.
        (contents.pop() == Some(b'0')).then_some(contents)
    }
}

/// What a frame holds, at most `max` bytes.
fn inflate(frame: &[u8], max: usize) -> Option<Vec<u8>> {
    let (mut inflater, mut out) = (Inflater::default(), Vec::new());
    let used = inflater.step(frame, |bytes| {
        out.extend_from_slice(bytes);
        out.len() <= max
    });
    let whole = used.ok()? == frame.len() && inflater.has_ended() && out.len() <= max;
    whole.then_some(out)
}
