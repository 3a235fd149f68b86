//! Commands whose output a shell with `zstd` compresses, other than segments.

use super::{LINE_MAX, put_compress, put_path, put_print, put_reads, put_trailer, put_word};
use crate::wire::nar::layout::{FileRange, Piece};

/// Lists everything at and below the path of that name as [`list`] does, with the status of `find` behind it, as one frame
/// of zstd's. It costs nothing but its own name to ask for it, so it may be asked for ahead.
pub(in crate::remote::shell) fn list_compressed(name: &[u8], number: u32, max: usize) -> Vec<u8> {
    let mut out = b"w ".to_vec();
    put_word(&mut out, name);
    out.extend_from_slice(b";{ find \"$p/\"");
    put_word(&mut out, name);
    out.extend_from_slice(b" -printf '%y %m %s %P\\0%l\\0';printf %s \"$?\";}");
    out.extend_from_slice(format!("|head -c {max}|zstd -q -3;").as_bytes());
    put_trailer(&mut out, number, "0", "");
    out.push(b'\n');
    out
}

/// The digests of these files of the path of that name, as one frame of zstd's: for each that is there what `sha256sum -z`
/// prints.
pub(in crate::remote::shell) fn file_digests<'a>(
    name: &[u8],
    files: impl Iterator<Item = &'a [u8]>,
    number: u32,
) -> Vec<u8> {
    let mut out = b"w ".to_vec();
    put_word(&mut out, name);
    out.extend_from_slice(b";{ cd \"$p/\"");
    put_word(&mut out, name);
    let mut line = 0;
    for file in files {
        if line == 0 || out.len() - line > LINE_MAX {
            out.extend_from_slice(if line == 0 { b"&&{ " } else { b"\n" });
            line = out.len();
            out.extend_from_slice(b"sha256sum -z");
        }
        out.push(b' ');
        put_path(&mut out, file);
    }
    out.extend_from_slice(if line == 0 { b";" } else { b";};" });
    out.extend_from_slice(b"} 2>/dev/null|zstd -q -3;");
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

/// Compresses a file of the path that the shell is in against a file of another path. The trailer has the status.
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
