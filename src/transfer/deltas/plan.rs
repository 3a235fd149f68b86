//! Where each byte of a NAR comes from. Pure.

use std::collections::{HashMap, VecDeque};

use super::base_files::BaseFiles;
use super::matching::Matching;
use crate::wire::nar::layout::{FileRange, Layout, Piece};

/// The smallest file, in bytes, that comes as a patch over any line: each is a process at the host.
const PATCH_MIN: u64 = 16 << 10;

/// The smallest file, in bytes, that comes as a patch over the fastest line.
const PATCH_MIN_MAX: u64 = 256 << 10;

/// The largest one, on either side. At the host `zstd` holds about both files (192 MiB for two of 88 MiB, seen with
/// zstd 1.5.4), and so does this side.
const PATCH_MAX: u64 = 128 << 20;

/// How many bytes of files come in one group.
const GROUP_SIZE: u64 = 2 << 20;

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
    Ranges(Vec<FileRange>),
    /// A whole file, against a file here that the host has too.
    Patch {
        file: FileRange,
        base_file: Vec<u8>,
        base_size: u64,
    },
}

impl Request {
    /// How many bytes of files it brings.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Ranges(ranges) => ranges.iter().map(|range| range.len).sum(),
            Self::Patch { file, .. } => file.len,
        }
    }
}

/// How a NAR is put together: its steps in order, and the requests, each first needed after the one before.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: VecDeque<Step>,
    pub(super) requests: VecDeque<Request>,
    /// Bytes of files that come from here, or as patches.
    pub(super) spared: u64,
    /// Bytes of files in all.
    pub(super) contents: u64,
}

impl Plan {
    /// Plans the NAR of `layout`. `same` are files that are known to be the same here, with their digests;
    /// `patch_min` is the size in bytes from which files come as patches, within limits; `None` where the host does not
    /// have the version that is here.
    pub(super) fn new(
        layout: &Layout,
        base: &BaseFiles,
        same: &HashMap<Vec<u8>, [u8; 32]>,
        patch_min: Option<u64>,
    ) -> Self {
        let mut plan = Self::default();
        let matching = Matching::new(base);
        let patch_min = patch_min.map(|min| min.clamp(PATCH_MIN, PATCH_MIN_MAX));
        let patched = patch_min.map(|min| min..=PATCH_MAX);
        // The group that is not full yet, and its length.
        let mut group: Option<(usize, u64)> = None;
        for piece in layout.segment(0, u64::MAX).pieces() {
            let file = match piece {
                Piece::Framing(bytes) => {
                    plan.steps.push_back(Step::Framing(bytes));
                    continue;
                }
                Piece::Contents(file) => file,
            };
            plan.contents += file.len;
            if let Some(digest) = same.get(&file.path) {
                plan.spared += file.len;
                let (path, digest) = (file.path, *digest);
                plan.steps.push_back(Step::Local { path, digest });
                continue;
            }
            let is_patched = patched
                .as_ref()
                .is_some_and(|sizes| sizes.contains(&file.size));
            let base_file = match is_patched {
                true => matching.find(&file.path, file.size),
                false => None,
            };
            let sized = base_file.and_then(|path| base.entry(path));
            if let Some((path, base_size)) =
                sized.filter(|(_, size)| (1..=PATCH_MAX).contains(size))
            {
                plan.spared += file.len;
                plan.request(Request::Patch {
                    base_file: path.to_vec(),
                    base_size,
                    file,
                });
            } else {
                plan.add_to_group(&mut group, &file);
            }
        }
        plan
    }

    /// Whether so much is spared that it is worth it.
    pub(super) fn is_worth_it(&self) -> bool {
        self.spared.saturating_mul(100) >= self.contents.saturating_mul(MIN_SPARED_PERCENT)
    }

    /// Has a reply bring what follows, all of it.
    fn request(&mut self, request: Request) {
        let (number, len) = (self.requests.len(), request.len());
        self.steps.push_back(Step::Remote {
            request: number,
            len,
        });
        self.requests.push_back(request);
    }

    fn add_to_group(&mut self, group: &mut Option<(usize, u64)>, file: &FileRange) {
        let mut offset = file.offset;
        let end = file.offset + file.len;
        while offset < end {
            let (number, filled) = match *group {
                Some((number, filled)) if filled < GROUP_SIZE => (number, filled),
                _ => {
                    self.requests.push_back(Request::Ranges(Vec::new()));
                    (self.requests.len() - 1, 0)
                }
            };
            let len = (end - offset).min(GROUP_SIZE - filled);
            if let Some(Request::Ranges(ranges)) = self.requests.get_mut(number) {
                ranges.push(FileRange {
                    offset,
                    len,
                    ..file.clone()
                });
            }
            self.steps.push_back(Step::Remote {
                request: number,
                len,
            });
            *group = Some((number, filled + len));
            offset += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorePath;
    use crate::wire::nar::layout::{Entry, EntryKind};

    fn layout(files: &[(&str, u64)]) -> Layout {
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let root = Entry {
            path: b"",
            kind: EntryKind::Directory,
        };
        let files = files.iter().map(|&(path, size)| Entry {
            path: path.as_bytes(),
            kind: EntryKind::File {
                executable: false,
                size,
            },
        });
        Layout::new(path, std::iter::once(root).chain(files).collect()).unwrap()
    }

    /// The steps without framing, and the requests, as text.
    fn text(plan: &Plan) -> (Vec<String>, Vec<String>) {
        let steps = plan.steps.iter().filter_map(|step| match step {
            Step::Framing(_) => None,
            Step::Local { path, .. } => Some(String::from_utf8_lossy(path).into_owned()),
            Step::Remote { request, len } => Some(format!("{request}:{len}")),
        });
        let range = |range: &FileRange| {
            let path = String::from_utf8_lossy(&range.path).into_owned();
            format!("{path}@{}+{}", range.offset, range.len)
        };
        let requests = plan.requests.iter().map(|request| match request {
            Request::Ranges(ranges) => ranges.iter().map(range).collect::<Vec<_>>().join(" "),
            Request::Patch {
                file, base_file, ..
            } => format!(
                "{} from {}",
                range(file),
                String::from_utf8_lossy(base_file)
            ),
        });
        (steps.collect(), requests.collect())
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn each_file_comes_in_the_way_that_costs_least() {
        let layout = layout(&[("a", 10), ("b", 100_000), ("c", 20), ("d", 30), ("e", 0)]);
        let base = BaseFiles::of_sizes(&[("b", 90_000), ("c", 20), ("d", 31)]);
        let same = HashMap::from([(b"c".to_vec(), [7; 32])]);
        let plan = Plan::new(&layout, &base, &same, Some(0));
        let (steps, requests) = text(&plan);
        assert_eq!(steps, ["0:10", "1:100000", "c", "0:30"]);
        assert_eq!(requests, ["a@0+10 d@0+30", "b@0+100000 from b"]);
        assert_eq!((plan.spared, plan.contents), (100_020, 100_060));
        let (steps, requests) = text(&Plan::new(&layout, &base, &same, None));
        assert_eq!(steps, ["0:10", "0:100000", "c", "0:30"]);
        assert_eq!(requests, ["a@0+10 b@0+100000 d@0+30"]);
    }

    #[test]
    fn large_files_without_a_base_come_in_several_groups() {
        let layout = layout(&[("a", 10), ("b", 5 * MIB)]);
        let (steps, requests) = text(&Plan::new(
            &layout,
            &BaseFiles::of_sizes(&[]),
            &HashMap::new(),
            Some(0),
        ));
        let first = 2 * MIB - 10;
        let second = first + 2 * MIB;
        let last = 5 * MIB - second;
        assert_eq!(
            steps,
            [
                "0:10".to_owned(),
                format!("0:{first}"),
                format!("1:{}", 2 * MIB),
                format!("2:{last}")
            ]
        );
        assert_eq!(requests.len(), 3);
        assert_eq!(requests[2], format!("b@{second}+{last}"));
    }

    #[test]
    fn what_would_take_too_much_memory_is_no_patch() {
        let layout = layout(&[("a", PATCH_MAX + 1), ("b", 1 << 20)]);
        let base = BaseFiles::of_sizes(&[("a", 5 << 20), ("b", PATCH_MAX + 1)]);
        let plan = Plan::new(&layout, &base, &HashMap::new(), Some(0));
        let patches = plan.requests.iter();
        assert!(
            patches
                .into_iter()
                .all(|request| matches!(request, Request::Ranges(_)))
        );
    }
}
