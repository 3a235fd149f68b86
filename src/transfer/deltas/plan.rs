//! Where each byte of some NARs comes from. Pure.

use std::collections::{HashMap, VecDeque};

use super::base_files::BaseFiles;
use super::blocks::Block;
use super::matching::Matching;
use super::patching::Patching;
use crate::remote::FileOfPath;
use crate::wire::nar::layout::{FileRange, Layout, Piece};

/// How many bytes of files come in one group, and how many of them.
const GROUP_SIZE: u64 = 2 << 20;
const GROUP_FILES: usize = 4096;

/// The share of a NAR's contents, in percent, that has to be spared: less is faster in chunks, which come over several
/// channels.
const MIN_SPARED_PERCENT: u64 = 10;

/// What follows in the NAR.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Framing(Vec<u8>),
    /// A whole file, from here.
    Local {
        path: Vec<u8>,
        digest: [u8; 32],
    },
    /// A part of a file, from here.
    Block(Block),
    /// So many bytes of the reply to a request.
    Remote {
        request: usize,
        len: u64,
    },
}

/// What the host is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Ranges of files, compressed together.
    Ranges(Vec<FileOfPath>),
    /// A file or a part of it, against a file here that the host has too, or a part of that.
    Patch {
        file: FileOfPath,
        base_file: Vec<u8>,
        /// Offset and length in bytes of the part.
        base_part: (u64, u64),
    },
}

impl Request {
    /// How many bytes of files it brings.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Ranges(files) => files.iter().map(|file| file.range.len).sum(),
            Self::Patch { file, .. } => file.range.len,
        }
    }
}

/// How NARs are put together, one behind the other: the steps in order, and the requests, each first needed after the one
/// before.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Which NAR, and what follows in it.
    pub(super) steps: VecDeque<(usize, Step)>,
    pub(super) requests: VecDeque<Request>,
    /// The group that was begun last, and its length.
    group: Option<(usize, u64)>,
}

/// What of a NAR is known to be here.
#[derive(Debug, Default)]
pub(super) struct Here {
    /// Files that are the same, with their digests.
    pub(super) same: HashMap<Vec<u8>, [u8; 32]>,
    /// Files of which some blocks are: lengths in bytes, in order, and where each is, if it is here.
    pub(super) blocks: HashMap<Vec<u8>, Vec<(u64, Option<Block>)>>,
}

/// How much of a NAR need not come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spared {
    /// Bytes of files that come from here, or as patches.
    pub(super) spared: u64,
    /// Bytes of files in all.
    pub(super) contents: u64,
}

impl Spared {
    /// Whether it is so much that it is worth it.
    pub(super) fn is_worth_it(self) -> bool {
        self.spared.saturating_mul(100) >= self.contents.saturating_mul(MIN_SPARED_PERCENT)
    }
}

/// In which way a part of a NAR comes.
enum Way {
    Framing(Vec<u8>),
    Local(Vec<u8>, [u8; 32]),
    /// A whole file, where it begins in the NAR, and the file here with its size.
    Patch(FileRange, u64, Vec<u8>, u64),
    Block(Block),
    /// A part of a file, and where it begins in the NAR.
    Group(FileRange, u64),
}

impl Plan {
    /// Plans the NAR of `layout`, which has that number, if that is worth it; gives what it spares. `patching` is `None` where the host does not have the version that is
    /// here. Before anything is taken off the plan.
    pub(super) fn add(
        &mut self,
        nar: usize,
        layout: &Layout,
        base: &BaseFiles,
        here: &Here,
        patching: Option<Patching>,
    ) -> Spared {
        let (ways, spared) = ways(layout, base, here, patching);
        if !spared.is_worth_it() {
            return spared;
        }
        for way in ways {
            match way {
                Way::Framing(bytes) => self.steps.push_back((nar, Step::Framing(bytes))),
                Way::Local(path, digest) => {
                    self.steps.push_back((nar, Step::Local { path, digest }));
                }
                Way::Block(block) => self.steps.push_back((nar, Step::Block(block))),
                Way::Patch(file, nar_start, base_file, base_size) => {
                    let Some(patching) = patching else { continue };
                    for ((offset, len), base_part) in patching.parts(file.size, base_size) {
                        let request = self.requests.len();
                        self.steps.push_back((nar, Step::Remote { request, len }));
                        self.requests.push_back(Request::Patch {
                            file: FileOfPath {
                                index: nar,
                                nar_start: nar_start + offset,
                                range: FileRange {
                                    offset,
                                    len,
                                    ..file.clone()
                                },
                            },
                            base_file: base_file.clone(),
                            base_part,
                        });
                    }
                }
                Way::Group(file, nar_start) => self.add_to_group(nar, &file, nar_start),
            }
        }
        spared
    }

    /// Adds a file, or a part of one.
    fn add_to_group(&mut self, nar: usize, file: &FileRange, nar_start: u64) {
        let mut done = 0;
        while done < file.len {
            let (number, filled) = self.group_with_room();
            let len = (file.len - done).min(GROUP_SIZE - filled);
            if let Some(Request::Ranges(files)) = self.requests.get_mut(number) {
                files.push(FileOfPath {
                    index: nar,
                    nar_start: nar_start + done,
                    range: FileRange {
                        offset: file.offset + done,
                        len,
                        ..file.clone()
                    },
                });
            }
            let request = number;
            self.steps.push_back((nar, Step::Remote { request, len }));
            self.group = Some((number, filled + len));
            done += len;
        }
    }

    /// The group that has room, and how long it is.
    fn group_with_room(&mut self) -> (usize, u64) {
        if let Some((number, filled)) = self.group
            && filled < GROUP_SIZE
            && let Some(Request::Ranges(files)) = self.requests.get(number)
            && files.len() < GROUP_FILES
        {
            return (number, filled);
        }
        self.requests.push_back(Request::Ranges(Vec::new()));
        (self.requests.len() - 1, 0)
    }
}

fn ways(
    layout: &Layout,
    base: &BaseFiles,
    here: &Here,
    patching: Option<Patching>,
) -> (Vec<Way>, Spared) {
    let (mut ways, mut spared) = (Vec::new(), Spared::default());
    let (matching, mut at) = (Matching::new(base), 0);
    for piece in layout.segment(0, u64::MAX).pieces() {
        let file = match piece {
            Piece::Framing(bytes) => {
                at += bytes.len() as u64;
                ways.push(Way::Framing(bytes));
                continue;
            }
            Piece::Contents(file) => file,
        };
        let nar_start = at;
        at += file.len;
        spared.contents += file.len;
        if let Some(digest) = here.same.get(&file.path) {
            spared.spared += file.len;
            ways.push(Way::Local(file.path, *digest));
            continue;
        }
        if let Some(blocks) = here.blocks.get(&file.path) {
            let mut offset = 0;
            for (len, block) in blocks {
                match block {
                    Some(block) => {
                        spared.spared += len;
                        ways.push(Way::Block(block.clone()));
                    }
                    None => {
                        let (file, len) = (file.clone(), *len);
                        let part = FileRange {
                            offset,
                            len,
                            ..file
                        };
                        ways.push(Way::Group(part, nar_start + offset));
                    }
                }
                offset += len;
            }
            continue;
        }
        let other = patching.and_then(|patching| {
            // Cheaper than to look for it.
            patching.suits(file.size, 1).then_some(())?;
            let (path, size) = base.entry(matching.find(&file.path, file.size)?)?;
            patching.suits(file.size, size).then_some((path, size))
        });
        match other {
            Some((path, size)) => {
                spared.spared += file.len;
                ways.push(Way::Patch(file, nar_start, path.to_vec(), size));
            }
            None => ways.push(Way::Group(file, nar_start)),
        }
    }
    (ways, spared)
}

#[cfg(test)]
mod tests;
