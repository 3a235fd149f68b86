//! What a host sends of paths that other versions are here of, by a shell or by the extension: a survey of the paths, parts
//! of files against parts of other ones, and files that have no counterpart, several as one.
//!
//! Each is asked for ahead, and comes whole and in its turn by [`SegmentReader::difference`], as a frame that is decompressed
//! where there is time to.

use std::collections::HashMap;

use super::serve::FrameReply;
use super::shell::{CommandOutput, Surveyed, decompress};
use super::{RemoteError, SegmentReader};
use crate::model::StorePath;
use crate::wire::nar::layout::FileRange;
use crate::wire::serve::extension::{
    FilePart, MAX_NAMES, MAX_NAMES_LEN, NarPart, NarRange, SurveyedPath,
};

/// Bytes of a file of one of several store paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOfPath {
    /// Which of the paths.
    pub index: usize,
    /// Where in the NAR of that path they begin.
    pub nar_start: u64,
    /// The file, by its path below the root, and which bytes of it.
    pub range: FileRange,
}

/// A part of a file that both sides have, of another store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasePart<'a> {
    /// The store path.
    pub path: &'a StorePath,
    /// The file's path below the root.
    pub file: &'a [u8],
    /// Offset of the first byte.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
}

/// What came, not decompressed yet.
#[derive(Debug)]
pub enum Difference {
    /// What a command printed.
    Shell(CommandOutput),
    /// What our program replied.
    Extension(FrameReply),
}

impl SegmentReader {
    /// Whether parts of files come as patches too, not whole files only.
    #[must_use]
    pub fn patches_parts(&self) -> bool {
        matches!(self, Self::Extension(_))
    }

    /// Asks for the files of these paths, which are in the same store directory, and for the digests of those of these files
    /// (which path, and the file's path below its root, ordered by the former) that they have; then
    /// [`Difference::surveyed`]. Costs the host reading the files. The digests of more than 50,000 are not asked for.
    pub fn request_survey<'a>(
        &mut self,
        paths: &[&StorePath],
        files: impl Iterator<Item = (usize, &'a [u8])>,
    ) {
        match self {
            Self::Shell(shell) => {
                let files = files.filter_map(|(index, file)| Some((*paths.get(index)?, file)));
                shell.request_survey(paths, files);
            }
            Self::Extension(channel) => {
                let mut surveyed: Vec<_> = paths.iter().map(|path| unnamed(path)).collect();
                let mut left = MAX_NAMES_LEN;
                for (index, file) in files.take(MAX_NAMES) {
                    if file.len() >= left {
                        break;
                    }
                    left -= file.len() + 1;
                    if let Some(of) = surveyed.get_mut(index) {
                        of.names.extend_from_slice(file);
                        of.names.push(0);
                    }
                }
                channel.request_survey(surveyed);
            }
        }
    }

    /// Asks for these files of these paths, which are in the same store directory, one behind the other, as one frame of
    /// level `level`; then [`Difference::contents`].
    pub fn request_files(&mut self, paths: &[&StorePath], files: &[FileOfPath], level: u8) {
        match self {
            Self::Shell(shell) => {
                let Some(near) = paths.first() else {
                    return;
                };
                let ranges: Vec<_> = files.iter().map(|file| in_folder(paths, file)).collect();
                shell.request_ranges(near, &ranges, level);
            }
            Self::Extension(channel) => {
                // Those of the paths that are needed.
                let (mut used, mut numbers) = (Vec::new(), HashMap::new());
                let parts = files.iter().filter_map(|file| {
                    let path = *paths.get(file.index)?;
                    let index = *numbers.entry(file.index).or_insert_with(|| {
                        used.push(path.clone());
                        used.len() - 1
                    });
                    let (start, len) = (file.nar_start, file.range.len);
                    Some(NarPart { index, start, len })
                });
                let parts = parts.collect();
                channel.request_parts(used, parts, level.max(1));
            }
        }
    }

    /// Asks for bytes of a file as a frame that was made against those of `base`, which both sides have; then
    /// [`Difference::patched`]. Takes the host memory for both. Unless [`SegmentReader::patches_parts`], both have to be whole
    /// files.
    pub fn request_patch(
        &mut self,
        paths: &[&StorePath],
        file: &FileOfPath,
        base: BasePart<'_>,
        level: u8,
    ) {
        let Some(path) = paths.get(file.index) else {
            return;
        };
        match self {
            Self::Shell(shell) => {
                let range = in_folder(paths, file);
                shell.request_patch(path, &range, (base.path, base.file), level);
            }
            Self::Extension(channel) => {
                let part = NarRange {
                    path: (*path).clone(),
                    start: file.nar_start,
                    len: file.range.len,
                };
                let base = FilePart {
                    path: base.path.clone(),
                    name: base.file.to_vec(),
                    start: base.start,
                    len: base.len,
                };
                channel.request_delta(part, base, level.max(1));
            }
        }
    }

    /// Asks for the SHA-256 of each block of `block` bytes of a whole file, the last one shorter; then as often
    /// [`SegmentReader::block_digests`] as there are some left. Costs the host reading the file, and a shell two processes for
    /// each block.
    pub fn request_block_digests(&mut self, paths: &[&StorePath], file: &FileOfPath, block: u64) {
        let Some(path) = paths.get(file.index) else {
            return;
        };
        match self {
            Self::Shell(shell) => {
                shell.request_block_digests(path, &in_folder(paths, file), block);
            }
            Self::Extension(channel) => {
                let (end, mut at) = (file.nar_start + file.range.size, file.nar_start);
                while at < end {
                    let len = block.clamp(1, end - at);
                    channel.request_part_digest(path, (at, len));
                    at += len;
                }
            }
        }
    }

    /// The SHA-256 of the next of `left` blocks, of at least one; `None` for one of which the host cannot tell.
    ///
    /// # Errors
    /// When the link breaks or falls silent, or what comes is no digest. It is to be dropped then.
    pub async fn block_digests(
        &mut self,
        left: usize,
    ) -> Result<Vec<Option<[u8; 32]>>, RemoteError> {
        Ok(match self {
            Self::Shell(shell) => match shell.output().await? {
                Some(output) => output.block_digests(left),
                None => vec![None; left],
            },
            Self::Extension(channel) => vec![channel.digest().await?],
        })
    }

    /// The next outstanding one of these. `None` when there is none. May be dropped and called again.
    ///
    /// # Errors
    /// When the link breaks or falls silent, or what comes has no end. It is to be dropped then.
    pub async fn difference(&mut self) -> Result<Option<Difference>, RemoteError> {
        Ok(match self {
            Self::Shell(shell) => shell.output().await?.map(Difference::Shell),
            Self::Extension(channel) => channel.frame().await?.map(Difference::Extension),
        })
    }
}

impl Difference {
    /// How many bytes came for it.
    #[must_use]
    pub fn wire_len(&self) -> u64 {
        self.frame().len() as u64
    }

    fn frame(&self) -> &[u8] {
        match self {
            Self::Shell(output) => &output.bytes,
            Self::Extension(reply) => &reply.bytes,
        }
    }

    /// What a survey says of the paths that were asked about, in their order; `None` where this is none.
    #[must_use]
    pub fn surveyed(self, paths: &[&StorePath]) -> Option<Vec<Surveyed>> {
        let reply = match self {
            Self::Shell(output) => return output.surveyed(paths),
            Self::Extension(reply) => reply,
        };
        let surveyed = reply.surveyed()?.into_iter().map(|(asked, said)| {
            let digests = asked.names().zip(said.digests);
            let digests = digests.filter_map(|(name, digest)| Some((name.to_vec(), digest?)));
            Surveyed {
                layout: said.layout,
                digests: digests.collect(),
            }
        });
        Some(surveyed.collect())
    }

    /// `len` bytes of files.
    ///
    /// # Errors
    /// Why they are none, for logs: the files could not be read, have other lengths, or were not compressed rightly.
    pub fn contents(&self, len: u64) -> Result<Vec<u8>, String> {
        self.check_done()?;
        let contents = match self {
            Self::Shell(output) => output.contents(len),
            Self::Extension(reply) => reply.contents(len),
        };
        contents.ok_or_else(|| "its files cannot be read, or not compressed".to_owned())
    }

    /// `len` bytes of a file, of which `base` is what they were made against.
    ///
    /// # Errors
    /// Why they are none, for logs: the host could not make them, or made them against something else.
    pub fn patched(&self, base: &[u8], len: u64) -> Result<Vec<u8>, String> {
        self.check_done()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        decompress(self.frame(), base, len).map_err(|error| error.0.to_owned())
    }

    fn check_done(&self) -> Result<(), String> {
        match self {
            Self::Shell(output) if output.status != 0 => Err(format!(
                "the host's zstd ended with status {}",
                output.status
            )),
            Self::Extension(reply) => match &reply.refusal {
                Some(reason) => Err(reason.clone()),
                None => Ok(()),
            },
            Self::Shell(_) => Ok(()),
        }
    }
}

fn unnamed(path: &StorePath) -> SurveyedPath {
    SurveyedPath {
        path: path.clone(),
        names: Vec::new(),
    }
}

/// A file by its path from the folder on that its store path is in.
fn in_folder(paths: &[&StorePath], file: &FileOfPath) -> FileRange {
    let name = paths
        .get(file.index)
        .map_or(&b""[..], |path| path.base_name().as_bytes());
    let path = match file.range.path.is_empty() {
        true => name.to_vec(),
        false => [name, b"/", &file.range.path].concat(),
    };
    FileRange {
        path,
        ..file.range.clone()
    }
}
