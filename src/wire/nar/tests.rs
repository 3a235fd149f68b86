use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(crate) enum Tree {
    File(bool, Vec<u8>),
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    pub(crate) fn directory<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Directory(entries.map(|(name, node)| (name.into(), node)).into())
    }
}

fn write(tree: &Tree, out: &mut Vec<u8>) {
    match tree {
        Tree::File(executable, contents) => {
            file_start(out, *executable, contents.len() as u64);
            out.extend_from_slice(contents);
            file_end(out, contents.len() as u64);
        }
        Tree::Symlink(target) => symlink(out, target),
        Tree::Directory(entries) => {
            directory_start(out);
            for (name, node) in entries {
                entry_start(out, name);
                write(node, out);
                entry_end(out);
            }
            directory_end(out);
        }
    }
}

pub(crate) fn nar(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    magic(&mut out);
    write(tree, &mut out);
    out
}

/// Feeds `input` in pieces of `piece` bytes and writes back what the decoder tells.
fn rewrite(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize), NarError> {
    let mut decoder = Decoder::new(input.len() as u64);
    let (mut out, mut open, mut size) = (Vec::new(), 0, 0);
    let (mut pos, mut end) = (0, 0);
    magic(&mut out);
    loop {
        let (read, event) = decoder.step(&input[pos..end])?;
        let closes = matches!(
            event,
            Some(Event::FileEnd | Event::Symlink(_) | Event::DirectoryEnd)
        );
        match event {
            None if end == input.len() => return Ok((out, pos + read)),
            None => end = (end + piece).min(input.len()),
            Some(Event::Directory) => {
                directory_start(&mut out);
                open += 1;
            }
            Some(Event::Entry(name)) => entry_start(&mut out, name),
            Some(Event::File {
                executable,
                size: s,
            }) => {
                size = s;
                file_start(&mut out, executable, s);
            }
            Some(Event::Contents(bytes)) => out.extend_from_slice(bytes),
            Some(Event::FileEnd) => file_end(&mut out, size),
            Some(Event::Symlink(target)) => symlink(&mut out, target),
            Some(Event::DirectoryEnd) => {
                directory_end(&mut out);
                open -= 1;
            }
            Some(Event::End) => {
                assert!(decoder.is_complete());
                assert_eq!(decoder.bytes_read(), (pos + read) as u64);
                return Ok((out, pos + read));
            }
        }
        if closes && open > 0 {
            entry_end(&mut out);
        }
        pos += read;
    }
}

pub(super) fn trees() -> impl Strategy<Value = Tree> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let target = proptest::collection::vec(1..=255u8, 1..30);
    let name = proptest::collection::vec(any::<u8>(), 1..12).prop_filter("a name", |name| {
        name != b"." && name != b".." && !name.contains(&0) && !name.contains(&b'/')
    });
    let leaf = prop_oneof![
        (any::<bool>(), bytes()).prop_map(|(x, c)| Tree::File(x, c)),
        target.prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        proptest::collection::btree_map(name.clone(), inner, 0..5).prop_map(Tree::Directory)
    })
}

proptest! {
    #[test]
    fn what_is_read_is_written_back_to_the_same_bytes(tree in trees(), piece in 1usize..70) {
        let mut input = nar(&tree);
        let len = input.len();
        prop_assert_eq!(rewrite(&input, piece).unwrap(), (input.clone(), len));
        prop_assert_eq!(rewrite(&input, 1).unwrap(), (input.clone(), len));
        // What follows the archive is left alone.
        input.extend_from_slice(b"next reply");
        prop_assert_eq!(rewrite(&input, 64).unwrap(), (input[..len].to_vec(), len));
    }

    #[test]
    fn a_cut_archive_can_always_be_completed(tree in trees(), cut in 0.0..1.0f64) {
        let input = nar(&tree);
        let cut = (input.len() as f64 * cut) as usize;
        let mut decoder = Decoder::new(input.len() as u64);
        let mut passed = 0;
        while let (read, Some(_)) = decoder.step(&input[passed..cut]).unwrap() {
            passed += read;
        }
        let passed = decoder.bytes_read() as usize;
        let Completion { head, fill, tail } = decoder.completion("why");
        let mut out = input[..passed].to_vec();
        out.extend(head);
        out.resize(out.len() + fill as usize, 0);
        out.extend(tail);
        let len = out.len();
        prop_assert_eq!(rewrite(&out, 13).unwrap(), (out, len));
    }

    #[test]
    fn never_panics(input in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..300) {
        let _ = rewrite(&input, 7);
        // A valid archive with one byte changed gets further in.
        let mut broken = nar(&Tree::Directory(
            [(b"a".to_vec(), Tree::File(true, b"x".to_vec()))].into(),
        ));
        let at = at % broken.len();
        broken[at] ^= input.first().copied().unwrap_or(1);
        let _ = rewrite(&broken, 9);
    }
}

fn refusal(build: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    magic(&mut out);
    build(&mut out);
    rewrite(&out, 1000).unwrap_err().to_string()
}

fn refused_entry(names: &[&[u8]]) -> String {
    refusal(|out| {
        directory_start(out);
        for name in names {
            entry_start(out, name);
            symlink(out, b"x");
            entry_end(out);
        }
    })
}

#[test]
fn bad_names_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'n'; 256]] {
        let message = refused_entry(&[name]);
        assert!(message.contains("name of an entry"), "{message}");
    }
    assert!(refused_entry(&[b"a", b"a"]).contains("sorts behind"));
    assert!(refused_entry(&[b"b", b"a"]).contains("sorts behind"));
}

#[test]
fn bad_targets_are_refused() {
    for target in [&b""[..], b"a\0b", &[b't'; 4096]] {
        let message = refusal(|out| symlink(out, target));
        assert!(message.contains("target of a symlink"), "{message}");
    }
}

#[test]
fn sixty_four_nodes_within_each_other_are_the_limit() {
    let nested = |depth| {
        move |out: &mut Vec<u8>| {
            for _ in 0..depth {
                directory_start(out);
                entry_start(out, b"d");
            }
        }
    };
    let within = |depth: usize, node: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        magic(&mut out);
        nested(depth)(&mut out);
        node(&mut out);
        for _ in 0..depth {
            entry_end(&mut out);
            directory_end(&mut out);
        }
        rewrite(&out, 1000)
    };
    let check = |node: &dyn Fn(&mut Vec<u8>)| {
        assert!(within(63, node).is_ok());
        let error = within(64, node).unwrap_err().to_string();
        assert!(error.contains("nodes: expected at most 64"), "{error}");
    };
    check(&|out| symlink(out, b"x"));
    check(&|out| {
        file_start(out, false, 0);
        file_end(out, 0);
    });
    check(&|out| {
        directory_start(out);
        directory_end(out);
    });
    assert!(refusal(nested(64)).contains("at most 64"));
}

#[test]
fn bad_tokens_are_refused() {
    use crate::wire::{put_string, put_u64};
    let cases: [(&str, &[&[u8]]); 6] = [
        ("beginning of a node", &[b"["]),
        ("type of a node", &[b"(", b"type", b"device"]),
        ("contents", &[b"(", b"type", b"regular", b")"]),
        (
            "executable",
            &[b"(", b"type", b"regular", b"executable", b"x"],
        ),
        (
            "end of a symlink",
            &[b"(", b"type", b"symlink", b"target", b"t", b"("],
        ),
        (
            "field of a directory",
            &[b"(", b"type", b"directory", b"entries"],
        ),
    ];
    for (field, tokens) in cases {
        let message = refusal(|out| tokens.iter().for_each(|t| put_string(out, t)));
        assert!(message.contains(field), "{message}");
    }
    let long = refusal(|out| put_u64(out, 33));
    assert!(long.contains("at most 32"), "{long}");
    let magic = rewrite(
        &[&13u64.to_le_bytes()[..], b"nix-archive-2\0\0\0"].concat(),
        99,
    );
    assert!(magic.unwrap_err().to_string().contains("magic"));
}

#[test]
fn padding_must_be_zero_and_sizes_must_fit() {
    let mut out = nar(&Tree::File(false, b"abc".to_vec()));
    let at = out.len() - 17;
    assert_eq!(out[at], 0);
    out[at] = 1;
    assert!(
        rewrite(&out, 99)
            .unwrap_err()
            .to_string()
            .contains("zero padding")
    );
    for size in [u64::MAX, u64::MAX - 7, u64::MAX - 200, 1000] {
        let message = refusal(|out| file_start(out, false, size));
        assert!(message.contains("size"), "{message}");
    }
}

#[test]
fn an_archive_above_its_limit_is_refused_before_it_has_come() {
    let input = nar(&Tree::File(false, vec![7; 100]));
    let mut decoder = Decoder::new(input.len() as u64 - 1);
    let mut pos = 0;
    let error = loop {
        match decoder.step(&input[pos..]) {
            Ok((read, _)) => pos += read,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("at most"), "{error}");
    assert!(!decoder.is_complete());
}

#[test]
fn an_archive_that_is_not_over_at_its_limit_is_refused_and_not_waited_for() {
    let mut input = nar(&Tree::File(false, Vec::new()));
    // The contents swallow the end: 16 bytes instead of none.
    let size = input.len() - 24;
    input[size] = 16;
    let mut decoder = Decoder::new(input.len() as u64);
    let mut at = 0;
    let refused = loop {
        match decoder.step(&input[at..]) {
            Ok((read, Some(_))) => at += read,
            Ok((_, None)) => panic!("waits for more"),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("at most"), "{refused}");
}

#[test]
fn after_an_error_nothing_is_read_any_more() {
    let input = nar(&Tree::File(false, b"abc".to_vec()));
    let mut broken = input.clone();
    broken[8] = b'N';
    let mut decoder = Decoder::new(u64::MAX);
    let error = decoder.step(&broken).unwrap_err();
    for more in [&input[..], &broken, b""] {
        assert_eq!(decoder.step(more), Err(error.clone()));
    }
    assert_eq!(decoder.bytes_read(), 0);
    // The same where the limit is what was wrong, and amid the archive.
    let mut decoder = Decoder::new(60);
    let error = decoder.step(&input).unwrap_err();
    assert_eq!(decoder.step(&input[24..]), Err(error));
    assert_eq!(decoder.bytes_read(), 24);
    assert!(!decoder.is_complete());
}

#[test]
fn a_failing_nar_is_a_file_that_tells_the_reason_to_people() {
    let out = failing_nar("host gone");
    let (again, _) = rewrite(&out, 1000).unwrap();
    assert_eq!(again, out);
    let text = String::from_utf8(out).unwrap();
    for words in [
        "NOT-DELIVERED-by-ssh-substituter.txt",
        "ssh-substituter could not deliver",
        "Reason: host gone\n",
        "'nix store dump-path'",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
