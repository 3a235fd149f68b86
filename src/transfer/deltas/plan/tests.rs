use super::super::patching::{BASE_PART_LEN, PART_LEN, PATCH_MAX};
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
    let here = Here {
        same: same.clone(),
        ..Here::default()
    };
    let spared = plan.add(0, layout, base, &here, patching);
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
        Step::Block(block) => Some(format!("{}@{:?}", block.part.0, block.part.1)),
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
    let here = Here {
        same: HashMap::from([(b"b".to_vec(), [7; 32])]),
        ..Here::default()
    };
    let mut planned = Plan::default();
    for (nar, layout) in layouts.iter().enumerate() {
        let spared = planned.add(nar, layout, &base, &here, WHOLE);
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
