//! Where each byte of some NARs comes from. Pure.

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

/// What the host is asked for. The paths of its files begin with the names of their store paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Ranges of files, compressed together.
    Ranges(Vec<FileRange>),
    /// A whole file, against a file here that the host has too.
    Patch {
        /// Which of the NARs it is of.
        nar: usize,
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

/// How NARs are put together, one behind the other: the steps in order, and the requests, each first needed after the one
/// before.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Which NAR, and what follows in it.
    pub(super) steps: VecDeque<(usize, Step)>,
    pub(super) requests: VecDeque<Request>,
    /// The group that is not full yet, and its length.
    group: Option<(usize, u64)>,
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
    Patch(FileRange, Vec<u8>, u64),
    Group(FileRange),
}

impl Plan {
    /// Plans the NAR of `layout`, which has that number, if that is worth it; gives what it spares. `same` are files that are
    /// known to be the same here, with their digests; `patch_min` is the size in bytes from which files come as patches,
    /// within limits; `None` where the host does not have the version that is here. Before anything is taken off the plan.
    pub(super) fn add(
        &mut self,
        nar: usize,
        layout: &Layout,
        base: &BaseFiles,
        same: &HashMap<Vec<u8>, [u8; 32]>,
        patch_min: Option<u64>,
    ) -> Spared {
        let (ways, spared) = ways(layout, base, same, patch_min);
        if !spared.is_worth_it() {
            return spared;
        }
        let name = layout.path().base_name().as_bytes();
        for way in ways {
            match way {
                Way::Framing(bytes) => self.steps.push_back((nar, Step::Framing(bytes))),
                Way::Local(path, digest) => {
                    self.steps.push_back((nar, Step::Local { path, digest }));
                }
                Way::Patch(file, base_file, base_size) => {
                    let (request, len) = (self.requests.len(), file.len);
                    self.steps.push_back((nar, Step::Remote { request, len }));
                    self.requests.push_back(Request::Patch {
                        nar,
                        file: in_folder(name, file),
                        base_file,
                        base_size,
                    });
                }
                Way::Group(file) => self.add_to_group(nar, &in_folder(name, file)),
            }
        }
        spared
    }

    fn add_to_group(&mut self, nar: usize, file: &FileRange) {
        let mut offset = file.offset;
        let end = file.offset + file.len;
        while offset < end {
            let (number, filled) = match self.group {
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
            let request = number;
            self.steps.push_back((nar, Step::Remote { request, len }));
            self.group = Some((number, filled + len));
            offset += len;
        }
    }
}

fn ways(
    layout: &Layout,
    base: &BaseFiles,
    same: &HashMap<Vec<u8>, [u8; 32]>,
    patch_min: Option<u64>,
) -> (Vec<Way>, Spared) {
    let (mut ways, mut spared) = (Vec::new(), Spared::default());
    let matching = Matching::new(base);
    let patched = patch_min.map(|min| min.clamp(PATCH_MIN, PATCH_MIN_MAX)..=PATCH_MAX);
    for piece in layout.segment(0, u64::MAX).pieces() {
        let file = match piece {
            Piece::Framing(bytes) => {
                ways.push(Way::Framing(bytes));
                continue;
            }
            Piece::Contents(file) => file,
        };
        spared.contents += file.len;
        if let Some(digest) = same.get(&file.path) {
            spared.spared += file.len;
            ways.push(Way::Local(file.path, *digest));
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
        match sized.filter(|(_, size)| (1..=PATCH_MAX).contains(size)) {
            Some((path, base_size)) => {
                spared.spared += file.len;
                ways.push(Way::Patch(file, path.to_vec(), base_size));
            }
            None => ways.push(Way::Group(file)),
        }
    }
    (ways, spared)
}

/// A file by its path from the folder on that its store path, of that name, is in.
fn in_folder(name: &[u8], file: FileRange) -> FileRange {
    let path = match file.path.is_empty() {
        true => name.to_vec(),
        false => [name, b"/", &file.path].concat(),
    };
    FileRange { path, ..file }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorePath;
    use crate::wire::nar::layout::{Entry, EntryKind};

    const NAME: &str = "7rjj86a15146cq1d3qy068lml7n7ykzm-a";

    /// The plan of one NAR.
    fn plan(
        layout: &Layout,
        base: &BaseFiles,
        same: &HashMap<Vec<u8>, [u8; 32]>,
        patch_min: Option<u64>,
    ) -> (Plan, Spared) {
        let mut plan = Plan::default();
        let spared = plan.add(0, layout, base, same, patch_min);
        (plan, spared)
    }

    fn layout(files: &[(&str, u64)]) -> Layout {
        let path = StorePath::parse(&format!("/nix/store/{NAME}")).unwrap();
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
        let steps = plan.steps.iter().filter_map(|(_, step)| match step {
            Step::Framing(_) => None,
            Step::Local { path, .. } => Some(String::from_utf8_lossy(path).into_owned()),
            Step::Remote { request, len } => Some(format!("{request}:{len}")),
        });
        let range = |range: &FileRange| {
            let path = String::from_utf8_lossy(&range.path[NAME.len() + 1..]).into_owned();
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
        let (planned, spared) = plan(&layout, &base, &same, Some(0));
        let (steps, requests) = text(&planned);
        assert_eq!(steps, ["0:10", "1:100000", "c", "0:30"]);
        assert_eq!(requests, ["a@0+10 d@0+30", "b@0+100000 from b"]);
        assert_eq!((spared.spared, spared.contents), (100_020, 100_060));
        // Of three files here one is spared: too little.
        let (steps, requests) = text(&plan(&layout, &base, &same, None).0);
        assert!(steps.is_empty() && requests.is_empty());
    }

    #[test]
    fn small_files_of_several_nars_come_together() {
        let layouts = [
            layout(&[("a", 10), ("b", 1000), ("x", 5)]),
            layout(&[("a", 20), ("b", 1000)]),
        ];
        let base = BaseFiles::of_sizes(&[("b", 1000)]);
        let same = HashMap::from([(b"b".to_vec(), [7; 32])]);
        let mut planned = Plan::default();
        for (nar, layout) in layouts.iter().enumerate() {
            let spared = planned.add(nar, layout, &base, &same, Some(0));
            assert!(spared.is_worth_it());
        }
        let (steps, requests) = text(&planned);
        assert_eq!(steps, ["0:10", "b", "0:5", "0:20", "b"]);
        assert_eq!(requests, ["a@0+10 x@0+5 a@0+20"]);
        let nars = planned.steps.iter().map(|(nar, _)| *nar);
        assert!(nars.is_sorted());
    }

    #[test]
    fn large_files_without_a_base_come_in_several_groups() {
        let layout = layout(&[("a", 10), ("b", 5 * MIB), ("c", 5 * MIB)]);
        let base = BaseFiles::of_sizes(&[("c", 5 * MIB)]);
        let same = HashMap::from([(b"c".to_vec(), [7; 32])]);
        let (steps, requests) = text(&plan(&layout, &base, &same, Some(0)).0);
        let first = 2 * MIB - 10;
        let second = first + 2 * MIB;
        let last = 5 * MIB - second;
        assert_eq!(
            steps,
            [
                "0:10".to_owned(),
                format!("0:{first}"),
                format!("1:{}", 2 * MIB),
                format!("2:{last}"),
                "c".to_owned()
            ]
        );
        assert_eq!(requests.len(), 3);
        assert_eq!(requests[2], format!("b@{second}+{last}"));
    }

    #[test]
    fn what_would_take_too_much_memory_is_no_patch() {
        let layout = layout(&[("a", PATCH_MAX + 1), ("b", 1 << 20), ("c", PATCH_MAX)]);
        let base = BaseFiles::of_sizes(&[("a", 5 << 20), ("b", PATCH_MAX + 1), ("c", PATCH_MAX)]);
        let (planned, _) = plan(&layout, &base, &HashMap::new(), Some(0));
        let patches = planned.requests.iter().filter_map(|request| match request {
            Request::Patch { base_file, .. } => Some(&**base_file),
            Request::Ranges(_) => None,
        });
        assert_eq!(patches.collect::<Vec<_>>(), [b"c"]);
    }
}
