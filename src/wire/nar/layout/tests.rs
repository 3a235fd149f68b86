use super::*;
use crate::wire::nar::Decoder;
use crate::wire::nar::tests::{Tree, nar, trees};
use proptest::prelude::*;
use std::collections::HashMap;

fn path() -> StorePath {
    StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap()
}

/// All paths of a tree, children before their directory and in reverse order, with the contents of
/// its files.
type Listed = Vec<(Vec<u8>, Tree)>;

fn list(path: &[u8], tree: &Tree, out: &mut Listed) {
    if let Tree::Directory(entries) = tree {
        for (name, node) in entries.iter().rev() {
            let path = if path.is_empty() {
                name.clone()
            } else {
                [path, b"/", name].concat()
            };
            list(&path, node, out);
        }
    }
    out.push((path.to_vec(), tree.clone()));
}

fn entries(listed: &Listed) -> Vec<Entry<'_>> {
    fn kind(tree: &Tree) -> EntryKind<'_> {
        match tree {
            &Tree::File(executable, ref contents) => EntryKind::File {
                executable,
                size: contents.len() as u64,
            },
            Tree::Symlink(target) => EntryKind::Symlink(target),
            Tree::Directory(_) => EntryKind::Directory,
        }
    }
    listed
        .iter()
        .map(|(path, tree)| Entry {
            path,
            kind: kind(tree),
        })
        .collect()
}

/// Puts a segment together, and checks its pieces.
fn fill(segment: &Segment, files: &HashMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut framing = false;
    for piece in segment.pieces() {
        match piece {
            Piece::Framing(bytes) => {
                assert!(!bytes.is_empty() && !framing);
                framing = true;
                out.extend(bytes);
            }
            Piece::Contents(range) => {
                assert!(range.len > 0);
                framing = false;
                let file = &files[&range.path];
                assert_eq!(file.len() as u64, range.size);
                let end = range.offset + range.len;
                out.extend_from_slice(&file[range.offset as usize..end as usize]);
            }
        }
    }
    assert_eq!(out.len() as u64, segment.len());
    out
}

proptest! {
    #[test]
    fn segments_of_any_length_make_up_the_archive(tree in trees(), len in 1u64..400, from in 0u64..2000) {
        let want = nar(&tree);
        let mut listed = Listed::new();
        list(b"", &tree, &mut listed);
        let layout = Layout::new(path(), entries(&listed)).unwrap();
        prop_assert_eq!(layout.nar_size(), want.len() as u64);
        let files: HashMap<_, _> = listed.into_iter().filter_map(|(path, tree)| match tree {
            Tree::File(_, contents) => Some((path, contents)),
            _ => None,
        }).collect();
        let (mut got, mut next) = (Vec::new(), from.min(layout.nar_size()));
        for segment in layout.segments(from, len) {
            prop_assert_eq!(segment.start(), next);
            prop_assert!(segment.len() <= len);
            next += segment.len();
            got.extend(fill(&segment, &files));
        }
        prop_assert_eq!(&got[..], want.get(from as usize..).unwrap_or_default());
        prop_assert_eq!(fill(&layout.segment(0, u64::MAX), &files), want);
    }
}

const FILE: EntryKind<'_> = EntryKind::File {
    executable: false,
    size: 3,
};

fn refusal(entries: &[(&[u8], EntryKind<'_>)]) -> String {
    let entries = entries
        .iter()
        .map(|(path, kind)| Entry { path, kind: *kind })
        .collect();
    Layout::new(path(), entries).unwrap_err().to_string()
}

#[test]
fn what_is_no_tree_is_refused() {
    let root = (&b""[..], EntryKind::Directory);
    assert!(refusal(&[]).contains("expected the root"));
    for strange in [&b"a"[..], b"/"] {
        assert!(refusal(&[(strange, FILE)]).contains("expected the root"));
    }
    for strange in [&b"a/b"[..], b"/a", b"a/", b"//"] {
        let message = refusal(&[root, (strange, FILE)]);
        assert!(message.contains("expected a"), "{message}");
    }
    assert!(refusal(&[root, (b"a", FILE), (b"a/b", FILE)]).contains("in a directory"));
    assert!(refusal(&[(b"", FILE), (b"a", FILE)]).contains("in a directory"));
    for twice in [FILE, EntryKind::Directory] {
        assert!(refusal(&[root, (b"a", twice), (b"a", FILE)]).contains("each path once"));
    }
    assert!(refusal(&[root, root]).contains("each path once"));
}

#[test]
fn what_no_nar_may_hold_is_refused() {
    let root = (&b""[..], EntryKind::Directory);
    for name in [&b"."[..], b"..", b"a\0b", &[b'n'; 256]] {
        assert!(refusal(&[root, (name, FILE)]).contains("name of an entry"));
    }
    for target in [&b""[..], b"a\0b", &[b't'; 4096]] {
        let message = refusal(&[root, (b"a", EntryKind::Symlink(target))]);
        assert!(message.contains("target of a symlink"), "{message}");
    }
    let huge = EntryKind::File {
        executable: false,
        size: u64::MAX - 50,
    };
    assert!(refusal(&[(b"", huge)]).contains("size of the archive"));
}

#[test]
fn sixty_four_nodes_within_each_other_are_the_limit_here_too() {
    let file = EntryKind::File {
        executable: false,
        size: 0,
    };
    let nested = |depth: usize, innermost| {
        let paths: Vec<Vec<u8>> = (0..depth)
            .map(|level| vec![&b"d"[..]; level].join(&b'/'))
            .collect();
        let entries = paths.iter().enumerate().map(|(level, path)| Entry {
            path,
            kind: match level + 1 == depth {
                true => innermost,
                false => EntryKind::Directory,
            },
        });
        Layout::new(path(), entries.collect())
    };
    for innermost in [EntryKind::Directory, EntryKind::Symlink(b"x"), file] {
        let error = nested(65, innermost).unwrap_err().to_string();
        assert!(error.contains("at most 64"), "{error}");
        assert!(nested(64, innermost).is_ok());
    }
    let deepest = nested(64, EntryKind::Directory).unwrap();
    let mut decoder = Decoder::new(deepest.nar_size());
    let bytes = fill(&deepest.segment(0, u64::MAX), &HashMap::new());
    let mut at = 0;
    while !decoder.is_complete() {
        at += decoder.step(&bytes[at..]).unwrap().0;
    }
}

#[test]
fn a_hundred_thousand_files_take_little_memory() {
    assert!(size_of::<Node>() <= 40);
}

#[test]
fn what_is_below_a_directory_comes_before_its_longer_namesakes() {
    let leaf = |name: &str| (name.into(), Tree::File(false, name.into()));
    let folder = |name: &str| {
        let inside = Tree::Directory([leaf("x"), leaf("\u{1}")].into());
        (name.into(), inside)
    };
    let tree = Tree::Directory(
        [
            folder("a"),
            leaf("a-b"),
            folder("a."),
            leaf("a\u{1}"),
            leaf("a0"),
        ]
        .into(),
    );
    let mut listed = Listed::new();
    list(b"", &tree, &mut listed);
    let layout = Layout::new(path(), entries(&listed)).unwrap();
    let contents = |(path, tree): (Vec<u8>, Tree)| match tree {
        Tree::File(_, contents) => Some((path, contents)),
        _ => None,
    };
    let files = listed.clone().into_iter().filter_map(contents).collect();
    assert_eq!(fill(&layout.segment(0, u64::MAX), &files), nar(&tree));
}
