//! Writing NARs, token by token. The caller keeps to the grammar.

use super::MAGIC;
use crate::wire::{padding_len, put_string, put_u64};

fn tokens(out: &mut Vec<u8>, tokens: &[&[u8]]) {
    for token in tokens {
        put_string(out, token);
    }
}

/// The beginning of the archive; one node follows.
pub fn magic(out: &mut Vec<u8>) {
    tokens(out, &[MAGIC]);
}

/// A regular file up to its contents, of which `size` bytes follow.
pub fn file_start(out: &mut Vec<u8>, executable: bool, size: u64) {
    tokens(out, &[b"(", b"type", b"regular"]);
    if executable {
        tokens(out, &[b"executable", b""]);
    }
    tokens(out, &[b"contents"]);
    put_u64(out, size);
}

/// What follows `size` bytes of contents.
pub fn file_end(out: &mut Vec<u8>, size: u64) {
    out.resize(out.len() + padding_len(size), 0);
    tokens(out, &[b")"]);
}

/// A whole symlink.
pub fn symlink(out: &mut Vec<u8>, target: &[u8]) {
    tokens(out, &[b"(", b"type", b"symlink", b"target", target, b")"]);
}

/// The beginning of a directory; entries follow.
pub fn directory_start(out: &mut Vec<u8>) {
    tokens(out, &[b"(", b"type", b"directory"]);
}

/// The beginning of an entry; one node follows.
pub fn entry_start(out: &mut Vec<u8>, name: &[u8]) {
    tokens(out, &[b"entry", b"(", b"name", name, b"node"]);
}

/// The end of an entry.
pub fn entry_end(out: &mut Vec<u8>) {
    tokens(out, &[b")"]);
}

/// The end of a directory.
pub fn directory_end(out: &mut Vec<u8>) {
    tokens(out, &[b")"]);
}
