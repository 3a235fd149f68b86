//! Rules of what the commands of a host's shell print when a path comes as its differences, and of patches. The first byte
//! tells what comes: `s` a survey of two paths (compressed here first), `S` the same as a frame, `c` the contents of files as a
//! frame behind two bytes with their length, `p` a patch against [`BASE`] in the same way, `b` the digests of blocks, any other two
//! versions of a file, behind two bytes with the length of the old one.
//!
//! 1. Nothing longer comes out than is wanted, and memory is taken in proportion to what there is.
//! 2. A patch gives the new version against the old one, and nothing against another.

use bytes::Bytes;
use ssh_substituter::model::StorePath;
use ssh_substituter::remote::{CommandOutput, decompress};

use super::{assert_plain, memory};

/// What patches are made against.
const BASE: [u8; 4096] = {
    let mut base = [0; 4096];
    let mut at = 0;
    while at < base.len() {
        base[at] = ((at * at) >> 7) as u8;
        at += 1;
    }
    base
};

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    match kind {
        b's' => survey(compressed(rest), Some(rest.len())),
        b'S' => survey(rest.to_vec(), None),
        b'b' => block_digests(rest),
        b'c' | b'p' => frame(rest, *kind == b'p'),
        _ => versions(rest),
    }
}

fn output(bytes: Vec<u8>) -> CommandOutput {
    CommandOutput {
        bytes: Bytes::from(bytes),
        status: 0,
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("compress")
}

/// Does something with what has so many bytes when it is decompressed, if that is known.
fn bounded<T>(len: Option<usize>, work: impl FnOnce() -> T) -> T {
    match len {
        // Decompressing doubles what it has room for.
        Some(len) => memory::within(4 * len + (64 << 10), work),
        None => work(),
    }
}

fn survey(frame: Vec<u8>, len: Option<usize>) {
    let path = |name| StorePath::parse(&format!("/nix/store/{name}")).unwrap();
    let paths = [
        "7rjj86a15146cq1d3qy068lml7n7ykzm-a",
        "q3laishhmk84vl44j1973qpzkyhmr90c-b",
    ]
    .map(path);
    let (output, paths) = (output(frame), paths.each_ref());
    let Some(surveyed) = bounded(len, || output.surveyed(&paths)) else {
        return;
    };
    assert_eq!(surveyed.len(), paths.len());
    let (mut entries, mut names) = (0, 0);
    for (surveyed, path) in surveyed.iter().zip(paths) {
        if let Some(layout) = &surveyed.layout {
            assert_eq!(layout.path(), path);
            entries += layout.entries();
        }
        names += surveyed
            .digests
            .keys()
            .map(|name| name.len() + 64)
            .sum::<usize>();
    }
    // What there is of them is what came.
    assert!(len.is_none_or(|len| entries + names <= len));
}

fn block_digests(input: &[u8]) {
    let output = output(input.to_vec());
    for count in [0, 1, 100] {
        let digests = output.block_digests(count);
        assert_eq!(digests.len(), count);
        // Each is in what came.
        let known = digests.iter().flatten();
        assert!(known.count() * 64 <= input.len());
    }
}

fn frame(input: &[u8], is_patch: bool) {
    let Some((len, frame)) = input.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes(*len));
    let base: &[u8] = if is_patch { &BASE } else { b"" };
    match memory::within(len, || decompress(frame, base, len)) {
        Ok(bytes) => assert_eq!(bytes.len(), len),
        Err(error) => assert_plain(error.0),
    }
    if !is_patch {
        let contents = output(frame.to_vec()).contents(len as u64);
        assert!(contents.is_none_or(|contents| contents.len() == len));
    }
}

fn versions(input: &[u8]) {
    let Some((len, both)) = input.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes(*len)).min(both.len());
    let (old, new) = both.split_at(len);
    let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), 1, old).expect("an encoder");
    encoder.include_checksum(true).expect("a checksum");
    std::io::Write::write_all(&mut encoder, new).expect("compress");
    let patch = encoder.finish().expect("compress");
    let got = memory::within(new.len(), || decompress(&patch, old, new.len()));
    assert_eq!(got.as_deref(), Ok(new));
    assert!(decompress(&patch, old, new.len() + 1).is_err());
    if let Some(shorter) = new.len().checked_sub(1) {
        assert!(decompress(&patch, old, shorter).is_err());
    }
    // Against another version it gives the same only where it takes nothing from it.
    if let Ok(other) = decompress(&patch, &BASE, new.len()) {
        assert_eq!(other, new);
    }
}
