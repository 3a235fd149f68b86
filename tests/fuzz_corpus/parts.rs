//! What a host with this program and its client send, and what the shell of a host prints.

use ssh_substituter::wire::nar::layout::{Entry, EntryKind};
use ssh_substituter::wire::serve::Request;
use ssh_substituter::wire::serve::extension::{
    FilePart, NarPart, NarRange, Request as Part, Status, SurveyedPath, put_busy, put_end,
    put_entry, put_piece_head, put_survey_head,
};
use ssh_substituter::wire::{put_string, put_u64};

use super::Group;
use super::seeds::{hello, libc};

pub fn extension() -> Group {
    let (path, start, len) = (hello(), 1 << 33, 2 << 20);
    let mut requests = b"q".to_vec();
    let list = Part::List {
        path: path.clone(),
        level: 3,
    };
    let chunk = Part::Chunk {
        path: path.clone(),
        start,
        len,
        level: 19,
    };
    let digest = Part::Digest {
        path,
        start,
        len,
        contents_only: true,
    };
    list.put(&mut requests);
    Request::DumpStorePath { path: libc() }.put(&mut requests);
    chunk.put(&mut requests);
    digest.put(&mut requests);
    let delta = Part::Delta {
        part: NarRange {
            path: hello(),
            start: 7,
            len: 1 << 20,
        },
        base: FilePart {
            path: libc(),
            name: b"lib/libc.so.6".to_vec(),
            start: 0,
            len: 1 << 33,
        },
        level: 3,
    };
    delta.put(&mut requests);
    let nars = Part::Nars {
        paths: vec![hello(), libc()],
        level: 0,
    };
    nars.put(&mut requests);
    let survey = Part::Survey {
        paths: [(hello(), &b"bin/hello\0x\xff y\0"[..]), (libc(), b"")]
            .map(|(path, names)| SurveyedPath {
                path,
                names: names.to_vec(),
            })
            .to_vec(),
        level: 3,
    };
    survey.put(&mut requests);
    let parts = Part::Parts {
        paths: vec![hello(), libc()],
        parts: [(0, 112), (1, 1 << 40), (0, 9)]
            .map(|(index, start)| NarPart {
                index,
                start,
                len: 40,
            })
            .to_vec(),
        level: 19,
    };
    parts.put(&mut requests);
    let mut unfit = b"q".to_vec();
    put_u64(&mut unfit, 0x5381);
    put_string(&mut unfit, b"/etc/passwd");
    put_u64(&mut unfit, 3);
    put_u64(&mut unfit, 0x5381);
    put_string(&mut unfit, hello().as_str().as_bytes());
    put_u64(&mut unfit, 20);
    // A name without an end, and a part of a path that is none of them.
    Part::Survey {
        paths: vec![SurveyedPath {
            path: hello(),
            names: b"bin".to_vec(),
        }],
        level: 0,
    }
    .put(&mut unfit);
    Part::Parts {
        paths: vec![hello()],
        parts: vec![NarPart {
            index: 1,
            start: 0,
            len: 1,
        }],
        level: 0,
    }
    .put(&mut unfit);
    let reply = |tag: u8, status, reason: &str| {
        let mut out = vec![tag];
        if tag == b'b' {
            put_busy(&mut out);
        }
        for piece in [&b"some bytes"[..], b"more"] {
            put_piece_head(&mut out, piece.len());
            out.extend_from_slice(piece);
        }
        put_end(&mut out, status, reason);
        out
    };
    let mut listing = b"l".to_vec();
    let file = |executable, size| EntryKind::File { executable, size };
    for (path, kind) in [
        (&b""[..], EntryKind::Directory),
        (b"bin", EntryKind::Directory),
        (b"bin/hello", file(true, 12_345)),
        (b"lib", file(false, 0)),
        (b"link", EntryKind::Symlink(b"bin/hello")),
    ] {
        put_entry(&mut listing, &Entry { path, kind });
    }
    // Names, then what is said of their two paths.
    let mut survey = [&b"s"[..], &11_u16.to_le_bytes(), b"bin/hello\0x\0"].concat();
    put_survey_head(&mut survey, listing.len() - 1);
    survey.extend_from_slice(&listing[1..]);
    survey.extend_from_slice(&[7; 32]);
    survey.extend_from_slice(&[0; 32]);
    put_survey_head(&mut survey, 0);
    let words = |tag: u8, words: &[u64]| {
        let mut out = vec![tag];
        words.iter().for_each(|word| put_u64(&mut out, *word));
        out
    };
    vec![
        ("requests", requests),
        ("unfit", unfit),
        ("reply", reply(b'r', Status::Done, "")),
        ("busy", reply(b'b', Status::Failed, "cannot read")),
        ("busy-too-often", words(b'b', &[u64::MAX; 721])),
        ("piece-too-long", words(b'r', &[262_145])),
        ("no-such-status", words(b'r', &[0, 4, 0])),
        ("listing", listing),
        ("survey", survey),
        ("one-file", words(b'l', &[1, 0, 77])),
        ("twice", words(b'l', &[0, 0, 0, 0])),
    ]
}

pub fn differences() -> Group {
    let [a, b] = [
        "7rjj86a15146cq1d3qy068lml7n7ykzm-a",
        "q3laishhmk84vl44j1973qpzkyhmr90c-b",
    ];
    let entries = [
        format!("d 755 9 {a}"),
        format!("d 755 9 {a}/bin"),
        format!("f 755 12345 {a}/bin/hello"),
        format!("f 644 0 {b}"),
    ];
    let entries = entries.map(|entry| format!("{entry}\0\0")).concat();
    let listing = format!("s{entries}l 777 5 {a}/link\0hello\0\0");
    let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let line = |name: &str| format!("{digest}  {a}/{name}\0");
    let digests = [line("bin/hello"), line("-x")].concat();
    let survey = format!("{listing}{digests}");
    let text = "one line\nanother line\n".repeat(20);
    let len = (text.len() as u16).to_le_bytes();
    let blocks = format!("b{digest}  -\n{digest}  -\nno digest");
    let versions = [&b"v"[..], &len, text.as_bytes(), b"new\n", text.as_bytes()].concat();
    let contents = zstd::encode_all(format!("{text}0").as_bytes(), 3).expect("compress");
    let contents = [&b"c"[..], &len, &contents].concat();
    let frame = zstd::encode_all(text.as_bytes(), 3).expect("compress");
    let patch = [&b"p"[..], &len, &frame].concat();
    vec![
        ("listing", listing.into_bytes()),
        ("survey", survey.into_bytes()),
        ("blocks", blocks.into_bytes()),
        ("versions", versions),
        ("contents", contents),
        ("patch", patch),
    ]
}
