//! Commands whose output a shell with `zstd` compresses, other than segments.

use super::{LINE_MAX, dd, put_compress, put_path, put_print, put_reads, put_trailer, put_word};
use crate::wire::nar::layout::{FileRange, Piece};

/// Lists everything at and below the paths of these names, which are in one folder, and gives the digests of those of these
/// files of theirs that are there, as one frame of zstd's: what [`list`](super::list) prints, with paths from that folder on;
/// an empty string; for each file what `sha256sum -z` prints. At most `max` bytes.
pub(in crate::remote::shell) fn survey<'a>(
    names: &[&[u8]],
    files: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    number: u32,
    max: usize,
) -> Vec<u8> {
    let mut out = b"w ".to_vec();
    put_word(&mut out, names.first().copied().unwrap_or_default());
    out.extend_from_slice(b";{ cd \"$p/\"&&{ find");
    for name in names {
        out.push(b' ');
        put_word(&mut out, name);
    }
    out.extend_from_slice(b" -printf '%y %m %s %p\\0%l\\0';printf '\\0'");
    let mut line = None;
    for (name, file) in files {
        if line.is_none_or(|line| out.len() - line > LINE_MAX) {
            out.push(b'\n');
            line = Some(out.len());
            out.extend_from_slice(b"sha256sum -z");
        }
        out.push(b' ');
        put_word(&mut out, &[name, b"/", file].concat());
    }
    let end = format!("\n}};}} 2>/dev/null|head -c {max}|zstd -q -3;");
    out.extend_from_slice(end.as_bytes());
    put_trailer(&mut out, number, "0", "");
    out.push(b'\n');
    out
}

/// Reads these ranges of files as one frame of zstd's, which ends with `$e`; the trailer has the status of `zstd`.
pub(in crate::remote::shell) fn read_ranges<'a>(
    out: &mut Vec<u8>,
    root: &[u8],
    ranges: impl Iterator<Item = &'a FileRange>,
    level: u8,
    number: u32,
) {
    out.extend_from_slice(b"{\n");
    let pieces = ranges.map(|range| Piece::Contents(range.clone()));
    put_reads(out, root, pieces, false);
    put_compress(out, level, number);
}

/// Compresses a file, by its path from where the shell is, against a file of another path. The trailer has the status.
pub(in crate::remote::shell) fn patch(
    out: &mut Vec<u8>,
    file: &[u8],
    (base, base_file): (&[u8], &[u8]),
    level: u8,
    number: u32,
) {
    out.extend_from_slice(b"w ");
    put_word(out, base);
    let zstd = format!(";[ \"$e\" = 0 ]&&zstd -q -{level} --single-thread --patch-from=\"$p/\"");
    out.extend_from_slice(zstd.as_bytes());
    put_word(out, base);
    if !base_file.is_empty() {
        out.push(b'/');
        put_word(out, base_file);
    }
    out.extend_from_slice(b" -c ");
    put_path(out, file);
    out.extend_from_slice(b" 2>/dev/null\n");
    put_trailer(out, number, "$?", "");
    out.push(b'\n');
}

/// Prints what `sha256sum` makes of each block of `block` bytes of a file of `size` bytes, by its path from where the shell is;
/// nothing where the shell is not where it should be. Two processes for each block.
pub(in crate::remote::shell) fn block_digests(
    out: &mut Vec<u8>,
    file: &[u8],
    (size, block): (u64, u64),
    number: u32,
) {
    let line = format!(
        "[ \"$e\" = 0 ]&&{{ o=0;while [ \"$o\" -lt {size} ];do {} ",
        dd()
    );
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(format!("skip=\"$o\" count={block} if=").as_bytes());
    put_word(out, file);
    let line = format!("|sha256sum||break;o=$((o+{block}));done;}} 2>/dev/null\n");
    out.extend_from_slice(line.as_bytes());
    put_trailer(out, number, "0", "");
    out.push(b'\n');
}

/// Gives the serve program of these words what it is to read, and compresses what it replies. The trailer has the status
/// of `zstd`.
pub(in crate::remote::shell) fn dumps(
    requests: &[u8],
    program: &[&str],
    level: u8,
    number: u32,
) -> Vec<u8> {
    let mut out = Vec::new();
    put_print(&mut out, requests);
    // The line goes on.
    out.pop();
    out.push(b'|');
    for word in program {
        put_word(&mut out, word.as_bytes());
        out.push(b' ');
    }
    out.pop();
    out.extend_from_slice(format!("|zstd -q -{level}\n").as_bytes());
    put_trailer(&mut out, number, "$?", "");
    out.push(b'\n');
    out
}
