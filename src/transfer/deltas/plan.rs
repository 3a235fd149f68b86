//! Where each byte of some NARs comes from. Pure.

use std::collections::{HashMap, VecDeque};

use super::base_files::BaseFiles;
use super::matching::Matching;
use crate::remote::FileOfPath;
use crate::wire::nar::layout::{FileRange, Layout, Piece};

/// The smallest file, in bytes, that comes as a patch over any line where each is a process at the host, and where none is.
const PATCH_MIN: u64 = 16 << 10;
const PATCH_MIN_CHEAP: u64 = 4 << 10;

/// The smallest file, in bytes, that comes as a patch over the fastest line.
const PATCH_MIN_MAX: u64 = 256 << 10;

/// The largest one, on either side, where only whole files do. At the host `zstd` holds about both files (192 MiB for two
/// of 88 MiB, seen with zstd 1.5.4), and so does this side.
const PATCH_MAX: u64 = 128 << 20;

/// How many bytes of a file come as one patch where parts do, and how many of the other file they are made against: what
/// stands in about the same place, so much as this side may hold.
const PART_LEN: u64 = 24 << 20;
const BASE_PART_LEN: u64 = 40 << 20;

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

/// Which files come as patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patching {
    /// The size in bytes from which they do, within limits.
    pub(super) min: u64,
    /// Large ones in parts, and small ones cost no process.
    pub(super) in_parts: bool,
}

impl Patching {
    /// Whether a file of `size` bytes comes as a patch against one of `base_size`.
    fn suits(self, size: u64, base_size: u64) -> bool {
        let (least, most) = match self.in_parts {
            true => (PATCH_MIN_CHEAP, u64::MAX),
            false => (PATCH_MIN, PATCH_MAX),
        };
        let sizes = self.min.clamp(least, PATCH_MIN_MAX)..=most;
        sizes.contains(&size) && (1..=most).contains(&base_size)
    }

    /// The parts that a file of `size` bytes comes in, and what they are made against of one of `base_size`: offsets and
    /// lengths.
    fn parts(self, size: u64, base_size: u64) -> Vec<((u64, u64), (u64, u64))> {
        if !self.in_parts {
            return vec![((0, size), (0, base_size))];
        }
        let part = |start: u64| {
            let (len, base_len) = (PART_LEN.min(size - start), BASE_PART_LEN.min(base_size));
            let middle = u128::from(start + len / 2) * u128::from(base_size) / u128::from(size);
            let middle = u64::try_from(middle).unwrap_or(base_size);
            let from = middle
                .saturating_sub(base_len / 2)
                .min(base_size - base_len);
            ((start, len), (from, base_len))
        };
        let starts = (0..size.div_ceil(PART_LEN)).map(|number| number * PART_LEN);
        starts.map(part).collect()
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
    Group(FileRange, u64),
}

impl Plan {
    /// Plans the NAR of `layout`, which has that number, if that is worth it; gives what it spares. `same` are files that are
    /// known to be the same here, with their digests; `patching` is `None` where the host does not have the version that is
    /// here. Before anything is taken off the plan.
    pub(super) fn add(
        &mut self,
        nar: usize,
        layout: &Layout,
        base: &BaseFiles,
        same: &HashMap<Vec<u8>, [u8; 32]>,
        patching: Option<Patching>,
    ) -> Spared {
        let (ways, spared) = ways(layout, base, same, patching);
        if !spared.is_worth_it() {
            return spared;
        }
        for way in ways {
            match way {
                Way::Framing(bytes) => self.steps.push_back((nar, Step::Framing(bytes))),
                Way::Local(path, digest) => {
                    self.steps.push_back((nar, Step::Local { path, digest }));
                }
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

    /// Adds a whole file.
    fn add_to_group(&mut self, nar: usize, file: &FileRange, nar_start: u64) {
        let mut offset = 0;
        while offset < file.size {
            let (number, filled) = self.group_with_room();
            let len = (file.size - offset).min(GROUP_SIZE - filled);
            if let Some(Request::Ranges(files)) = self.requests.get_mut(number) {
                files.push(FileOfPath {
                    index: nar,
                    nar_start: nar_start + offset,
                    range: FileRange {
                        offset,
                        len,
                        ..file.clone()
                    },
                });
            }
            let request = number;
            self.steps.push_back((nar, Step::Remote { request, len }));
            self.group = Some((number, filled + len));
            offset += len;
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
    same: &HashMap<Vec<u8>, [u8; 32]>,
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
        if let Some(digest) = same.get(&file.path) {
            spared.spared += file.len;
            ways.push(Way::Local(file.path, *digest));
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
mod tests {
    use super::*;
    use crate::model::StorePath;
    use crate::wire::nar::layout::{Entry, EntryKind};

    const NAME: &str = "7rjj86a15146cq1d3qy068lml7n7ykzm-a";

    const WHOLE: Option<Patching> = Some(Patching {
        min: 0,
        in_parts: false,
    });
    const IN_PARTS: Option<Patching> = Some(Patching {
        min: 0,
        in_parts: true,
    });

    /// The plan of one NAR.
    fn plan(
        layout: &Layout,
        base: &BaseFiles,
        same: &HashMap<Vec<u8>, [u8; 32]>,
        patching: Option<Patching>,
    ) -> (Plan, Spared) {
        let mut plan = Plan::default();
        let spared = plan.add(0, layout, base, same, patching);
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
        let range = |FileOfPath { range, .. }: &FileOfPath| {
            let path = String::from_utf8_lossy(&range.path).into_owned();
            format!("{path}@{}+{}", range.offset, range.len)
        };
        let requests = plan.requests.iter().map(|request| match request {
            Request::Ranges(files) => files.iter().map(range).collect::<Vec<_>>().join(" "),
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
        let (planned, spared) = plan(&layout, &base, &same, WHOLE);
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
            let spared = planned.add(nar, layout, &base, &same, WHOLE);
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
        let (steps, requests) = text(&plan(&layout, &base, &same, WHOLE).0);
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
        let (planned, _) = plan(&layout, &base, &HashMap::new(), WHOLE);
        let patches = planned.requests.iter().filter_map(|request| match request {
            Request::Patch { base_file, .. } => Some(&**base_file),
            Request::Ranges(_) => None,
        });
        assert_eq!(patches.collect::<Vec<_>>(), [b"c"]);
    }

    #[test]
    fn a_large_file_comes_in_parts_against_what_stands_in_about_the_same_place() {
        let (size, base_size) = (150 * MIB, 160 * MIB);
        let layout = layout(&[("a", 8), ("b", size)]);
        let base = BaseFiles::of_sizes(&[("b", base_size)]);
        let (planned, spared) = plan(&layout, &base, &HashMap::new(), IN_PARTS);
        assert_eq!(spared.spared, size);
        let whole = layout.segment(0, u64::MAX);
        let framing = whole.pieces().map(|piece| match piece {
            Piece::Framing(bytes) => bytes.len() as u64,
            Piece::Contents(file) if file.path == b"a" => file.len,
            Piece::Contents(_) => 0,
        });
        let end = framing.collect::<Vec<_>>();
        let begin: u64 = end[..3].iter().sum();
        let (mut at, mut reached) = (0, 0);
        for request in &planned.requests {
            let Request::Patch {
                file,
                base_file,
                base_part: (from, len),
            } = request
            else {
                continue;
            };
            assert_eq!((&**base_file, file.range.offset), (&b"b"[..], at));
            assert_eq!(file.nar_start, begin + at);
            assert!(file.range.len <= PART_LEN && *len == BASE_PART_LEN);
            // Nothing of the other file is left out.
            assert!(*from <= reached);
            at += file.range.len;
            reached = from + len;
        }
        assert_eq!((at, reached), (size, base_size));
        assert!(
            plan(&layout, &base, &HashMap::new(), WHOLE)
                .0
                .steps
                .is_empty()
        );
    }

    #[test]
    fn small_files_come_as_patches_where_they_cost_no_process() {
        let layout = layout(&[("a", 5000)]);
        let base = BaseFiles::of_sizes(&[("a", 4000)]);
        let requests = |patching| plan(&layout, &base, &HashMap::new(), patching).0.requests;
        assert_eq!(requests(WHOLE).len(), 0);
        assert_eq!(requests(IN_PARTS).len(), 1);
    }

    #[test]
    fn a_group_has_so_many_files_at_most() {
        let names: Vec<String> = (0..GROUP_FILES + 1)
            .map(|number| format!("{number:05}"))
            .collect();
        let mut files: Vec<_> = names.iter().map(|name| (&**name, 1)).collect();
        files.push(("same", MIB));
        let base = BaseFiles::of_sizes(&[("same", MIB)]);
        let same = HashMap::from([(b"same".to_vec(), [7; 32])]);
        let (planned, _) = plan(&layout(&files), &base, &same, WHOLE);
        let counts = planned.requests.iter().map(|request| match request {
            Request::Ranges(files) => files.len(),
            Request::Patch { .. } => 0,
        });
        assert_eq!(counts.collect::<Vec<_>>(), [GROUP_FILES, 1]);
    }
}
