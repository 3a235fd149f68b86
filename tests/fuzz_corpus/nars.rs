//! Inputs that are NARs and listings.

use ssh_substituter::wire::nar::{
    directory_end, directory_start, entry_end, entry_start, file_end, file_start, magic, symlink,
};

use super::Group;

fn nar(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    magic(&mut out);
    build(&mut out);
    out
}

fn file(out: &mut Vec<u8>, executable: bool, contents: &[u8]) {
    file_start(out, executable, contents.len() as u64);
    out.extend_from_slice(contents);
    file_end(out, contents.len() as u64);
}

/// Writes a node.
type Node<'a> = &'a dyn Fn(&mut Vec<u8>);

fn directory(out: &mut Vec<u8>, entries: &[(&[u8], Node<'_>)]) {
    directory_start(out);
    for (name, node) in entries {
        entry_start(out, name);
        node(out);
        entry_end(out);
    }
    directory_end(out);
}

fn nested(out: &mut Vec<u8>, depth: usize) {
    match depth {
        0 => symlink(out, b"x"),
        depth => directory(out, &[(b"d", &|out| nested(out, depth - 1))]),
    }
}

/// All of them.
pub fn all() -> Group {
    let with_name =
        |name: &[u8]| nar(|out| directory(out, &[(name, &|out| file(out, false, b"x"))]));
    let tree = nar(|out| {
        directory(
            out,
            &[
                (b" ", &|out| symlink(out, b"../a")),
                (b"A", &|out| file(out, true, b"#!/bin/sh\n")),
                (b"a", &|out| file(out, false, b"")),
                (b"d", &|out| {
                    directory(
                        out,
                        &[
                            (b"a", &|out| file(out, false, &[7; 300])),
                            (b"e", &|out| directory(out, &[])),
                        ],
                    );
                }),
                // Before what is in `d` by its bytes, behind it in the archive.
                (b"d-x", &|out| file(out, false, b"")),
                (b"\xff", &|out| symlink(out, b"/")),
            ],
        );
    });
    let mut trailing = nar(|out| file(out, false, b"x"));
    trailing.extend_from_slice(b"more");
    let cut = tree[..tree.len() - 40].to_vec();
    let listing = |lines: &[&[u8]]| [b"listing\n", &lines.join(&b'\n')[..]].concat();
    vec![
        ("file", nar(|out| file(out, false, b"contents"))),
        ("executable", nar(|out| file(out, true, b""))),
        ("symlink", nar(|out| symlink(out, b"../../a"))),
        ("empty-directory", nar(|out| directory(out, &[]))),
        ("tree", tree),
        ("cut", cut),
        ("trailing", trailing),
        ("deepest", nar(|out| nested(out, 63))),
        ("too-deep", nar(|out| nested(out, 64))),
        (
            "size-near-2-64",
            nar(|out| file_start(out, false, u64::MAX - 200)),
        ),
        (
            "endless-file",
            nar(|out| {
                file_start(out, false, 1 << 40);
                out.extend_from_slice(&[b'e'; 100]);
            }),
        ),
        ("name-dot-dot", with_name(b"..")),
        ("name-slash", with_name(b"../../a")),
        ("name-absolute", with_name(b"/a")),
        ("name-nul", with_name(b"a\0b")),
        ("name-long", with_name(&[b'n'; 255])),
        // A directory in the place of a symlink that leads out.
        (
            "through-symlink",
            nar(|out| {
                directory(
                    out,
                    &[
                        (b"d", &|out| symlink(out, b"../../d")),
                        (b"d", &|out| {
                            directory(out, &[(b"a", &|out| file(out, false, b"out"))])
                        }),
                    ],
                );
            }),
        ),
        (
            "unsorted",
            nar(|out| {
                directory(
                    out,
                    &[
                        (b"b", &|out| symlink(out, b"x")),
                        (b"a", &|out| symlink(out, b"x")),
                    ],
                );
            }),
        ),
        ("target-long", nar(|out| symlink(out, &[b't'; 4095]))),
        (
            "listing",
            listing(&[
                b"d\0",
                b"da\0",
                b"fa/b\0\x05",
                b"xa.b\0\x09",
                b"la/c\0target",
            ]),
        ),
        ("listing-of-a-file", listing(&[b"f\0\x09"])),
        ("listing-no-tree", listing(&[b"d\0", b"fa/b\0\x05"])),
        // Once taken for the root.
        ("listing-of-a-slash", listing(&[b"f/\0\x09"])),
        (
            "listing-near-2-64",
            listing(&[
                b"d\0",
                b"fa\0\xff\xff\xff\xff\xff\xff\xff\x7f",
                b"fb\0\xff\xff\xff\xff\xff\xff\xff\x7f",
            ]),
        ),
    ]
}
