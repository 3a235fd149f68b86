//! What is written to a shell. It is a POSIX shell in all cases: login shells of other kinds only
//! start it.
//!
//! The variable `n` holds the nonce. Every output ends with a trailer that holds it, so that it
//! cannot be taken for contents of a file; no command spells it out, so that an echo of the command
//! cannot be taken for it.

use crate::model::HashPart;
use crate::wire::nar::layout::{FileRange, Piece, Segment};

mod blocks;
mod compressed;

pub(super) use blocks::{FIRST_PIPE, take_blocks};
pub(super) use compressed::{block_digests, dumps, patch, read_ranges, survey};

/// How much of a command line is names, in bytes: far below the limits of Linux (2 MiB) and others.
const LINE_MAX: usize = 64 << 10;

/// How many bytes `dd` takes at once: what the pipes on the way hold.
const DD_BLOCK_SIZE: &str = "64k";

/// Length of a trailer in bytes.
pub(super) const TRAILER: usize = 1 + NONCE + 1 + 10 + 1 + 1;

/// Length of a nonce in bytes.
pub(super) const NONCE: usize = 32;

/// How all trailers begin.
pub(super) fn trailer_start(nonce: &str) -> String {
    format!("={nonce}-")
}

/// The trailer of a command.
pub(super) fn trailer(nonce: &str, number: u32, status: u8) -> String {
    format!("{}{status}", trailer_of(nonce, number))
}

/// How the trailer of a command begins, up to its status, which is one digit.
pub(super) fn trailer_of(nonce: &str, number: u32) -> String {
    format!("={nonce}-{number:010}:")
}

/// Appends the command that prints a trailer with that status (a shell word), then `end` (in the
/// notation of printf).
fn put_trailer(out: &mut Vec<u8>, number: u32, status: &str, end: &str) {
    let line = format!("printf '=%s-%s:%s{end}' \"$n\" {number:010} {status}");
    out.extend_from_slice(line.as_bytes());
}

/// Sets `p` to the first of these folders that has an object of the name that it is called with; to the
/// last one where none has it.
pub(super) fn set_up(dirs: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"w(){ for p in".to_vec();
    for dir in dirs {
        out.push(b' ');
        put_word(&mut out, dir);
    }
    out.extend_from_slice(b";do [ -e \"$p/$1\" ]||[ -h \"$p/$1\" ]&&return;done;}\n");
    out
}

/// Lists everything at and below the path of that name, at most `max` bytes of it; see
/// [`super::listing`].
pub(super) fn list(name: &[u8], number: u32, max: usize) -> Vec<u8> {
    let mut out = b"w ".to_vec();
    put_word(&mut out, name);
    out.extend_from_slice(b";{ find \"$p/\"");
    put_word(&mut out, name);
    out.extend_from_slice(b" -printf '%y %m %s %P\\0%l\\0';");
    put_trailer(&mut out, number, "$?", "\\0\\0");
    out.extend_from_slice(format!(";}}|head -c {max};").as_bytes());
    put_trailer(&mut out, number, "9", "");
    out.push(b'\n');
    out
}

/// Names what is in a folder, each with a zero byte behind it, at most `max` bytes of it.
pub(super) fn names(dir: &[u8], number: u32, max: usize) -> Vec<u8> {
    names_like(std::slice::from_ref(&dir.to_vec()), &[], number, max)
}

/// As [`names`], of several folders, and only what begins with one of these hash parts, if there are any.
pub(super) fn names_like(
    dirs: &[Vec<u8>],
    hashes: &[HashPart],
    number: u32,
    max: usize,
) -> Vec<u8> {
    // Patterns are compared byte by byte then, which is faster.
    let mut out = b"LC_ALL=C find".to_vec();
    for dir in dirs {
        out.push(b' ');
        put_word(&mut out, dir);
        out.push(b'/');
    }
    out.extend_from_slice(b" -mindepth 1 -maxdepth 1");
    for (at, hash) in hashes.iter().enumerate() {
        let before = if at == 0 { "\\(" } else { "-o" };
        out.extend_from_slice(format!(" {before} -name '{hash}-*'").as_bytes());
    }
    if !hashes.is_empty() {
        out.extend_from_slice(b" \\)");
    }
    let rest = format!(" -printf '%f\\0' 2>/dev/null|head -c {max};");
    out.extend_from_slice(rest.as_bytes());
    put_trailer(&mut out, number, "9", "");
    out.push(b'\n');
    out
}

/// Prints the log of a build as `nix-store` there has it, of at most `max` bytes; nothing where it has none. `store` is what
/// that is to be passed as `--store`.
pub(super) fn build_log(store: Option<&str>, path: &str, number: u32, max: usize) -> Vec<u8> {
    let mut out = b"nix-store".to_vec();
    if let Some(store) = store {
        out.extend_from_slice(b" --store ");
        put_word(&mut out, store.as_bytes());
    }
    out.extend_from_slice(b" --read-log ");
    put_word(&mut out, path.as_bytes());
    out.extend_from_slice(format!(" </dev/null 2>/dev/null|head -c {max};").as_bytes());
    put_trailer(&mut out, number, "9", "");
    out.push(b'\n');
    out
}

/// Goes to the path of that name, or to the folder that it is in. When it fails, so does what is read
/// next.
pub(super) fn enter(out: &mut Vec<u8>, name: &[u8], is_folder: bool) {
    out.extend_from_slice(b"e=0;w ");
    put_word(out, name);
    out.extend_from_slice(b";cd \"$p/\"");
    if is_folder {
        put_word(out, name);
    }
    out.extend_from_slice(b"||e=1\n");
}

/// Reads the files that a segment needs, by their paths from where the shell is, and gives how many
/// bytes are due. `root` is the name of the root, for a path that is a single file. With a `level` they come as one
/// frame of zstd's, which then ends with `$e`, and the trailer has the status of `zstd`.
pub(super) fn read(
    out: &mut Vec<u8>,
    root: &[u8],
    segment: &Segment,
    level: Option<u8>,
    number: u32,
) -> u64 {
    let Some(level) = level else {
        let due = put_reads(out, root, segment.pieces(), false);
        put_trailer(out, number, "$e", "");
        out.push(b'\n');
        return due;
    };
    out.extend_from_slice(b"{\n");
    let due = put_reads(out, root, segment.pieces(), false);
    put_compress(out, level, number);
    due
}

/// Ends a group of commands whose output is compressed, with `$e` at its end.
fn put_compress(out: &mut Vec<u8>, level: u8, number: u32) {
    let compress = format!("printf %s \"$e\";}}|zstd -q -{level}\n");
    out.extend_from_slice(compress.as_bytes());
    put_trailer(out, number, "$?", "");
    out.push(b'\n');
}

/// Prints `$e` (0 when all files could be read), then what `sha256sum` makes of the bytes of a segment:
/// with `framing` of all of them, which costs a process for each file, else of those that come from files.
pub(super) fn digest(
    out: &mut Vec<u8>,
    root: &[u8],
    segment: &Segment,
    framing: bool,
    number: u32,
) {
    out.extend_from_slice(b"{ {\n");
    put_reads(out, root, segment.pieces(), framing);
    out.extend_from_slice(b"printf %s \"$e\" >&3;}|sha256sum;} 3>&1\n");
    put_trailer(out, number, "0", "");
    out.push(b'\n');
}

/// Appends the commands that print these pieces, all of them or only what comes from files; gives how many
/// bytes come from files.
fn put_reads(
    out: &mut Vec<u8>,
    root: &[u8],
    pieces: impl Iterator<Item = Piece>,
    framing: bool,
) -> u64 {
    let mut due = 0;
    // Where the line of whole files begins that is being written.
    let mut line: Option<usize> = None;
    for piece in pieces {
        let range = match piece {
            Piece::Contents(range) => range,
            Piece::Framing(bytes) if framing => {
                if line.take().is_some() {
                    out.extend_from_slice(b"||e=1\n");
                }
                put_print(out, &bytes);
                continue;
            }
            Piece::Framing(_) => continue,
        };
        due += range.len;
        let path = if range.path.is_empty() {
            root
        } else {
            &range.path
        };
        if let Some(start) = line
            && (!range.is_whole() || out.len() - start > LINE_MAX)
        {
            out.extend_from_slice(b"||e=1\n");
            line = None;
        }
        if range.is_whole() {
            if line.is_none() {
                line = Some(out.len());
                out.extend_from_slice(b"cat");
            }
            out.push(b' ');
            put_path(out, path);
        } else {
            put_part(out, &range, path);
        }
    }
    if line.is_some() {
        out.extend_from_slice(b"||e=1\n");
    }
    due
}

/// Prints these bytes, whatever they are.
fn put_print(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"printf '");
    for &byte in bytes {
        match byte {
            b'%' => out.extend_from_slice(b"%%"),
            b'\'' | b'\\' => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    out.extend_from_slice(b"'\n");
}

/// One process that seeks, where `tail | head` are two and copy everything once more.
fn put_part(out: &mut Vec<u8>, range: &FileRange, path: &[u8]) {
    let FileRange { offset, len, .. } = range;
    let line = format!("{} skip={offset} count={len} if=", dd());
    out.extend_from_slice(line.as_bytes());
    put_word(out, path);
    out.extend_from_slice(b"||e=1\n");
}

/// `dd` that counts in bytes.
pub(super) fn dd() -> String {
    format!("dd status=none bs={DD_BLOCK_SIZE} iflag=skip_bytes,count_bytes,fullblock")
}

/// Appends the path of a file, from where the shell is.
fn put_path(out: &mut Vec<u8>, path: &[u8]) {
    // `-` would be stdin, and `-x` an option.
    if path.starts_with(b"-") {
        out.extend_from_slice(b"./");
    }
    put_word(out, path);
}

/// Appends one word, quoted where it must be.
fn put_word(out: &mut Vec<u8>, word: &[u8]) {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        out.extend_from_slice(word);
        return;
    }
    out.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorePath;
    use crate::wire::nar::layout::{Entry, EntryKind, Layout};

    fn layout(files: &[(&str, u64)]) -> Layout {
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
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
        let entries = std::iter::once(root).chain(files);
        Layout::new(path, entries.collect()).unwrap()
    }

    fn text(segment: &Segment) -> (String, u64) {
        let mut out = Vec::new();
        let due = read(&mut out, b"name", segment, None, 7);
        (String::from_utf8(out).unwrap(), due)
    }

    #[test]
    fn whole_files_go_together_and_parts_alone() {
        let layout = layout(&[
            ("-a", 1),
            ("b c", 2),
            ("empty", 0),
            ("it's", 1000),
            ("z", 5),
        ]);
        let (all, due) = text(&layout.segment(0, u64::MAX));
        assert_eq!(
            all,
            "cat ./-a 'b c' 'it'\\''s' z||e=1\nprintf '=%s-%s:%s' \"$n\" 0000000007 $e\n"
        );
        assert_eq!(due, 1008);
        let (begin, _) = text(&layout.segment(0, layout.nar_size() - 1000));
        assert!(begin.contains("cat ./-a 'b c'||e=1\ndd "), "{begin}");
        assert!(
            begin.contains(" skip=0 count=") && begin.contains(" if='it'\\''s'||e=1\n"),
            "{begin}"
        );
    }

    #[test]
    fn what_is_compressed_ends_with_its_own_status() {
        let mut out = Vec::new();
        let layout = layout(&[("a", 1), ("b", 2)]);
        let due = read(&mut out, b"name", &layout.segment(0, u64::MAX), Some(3), 7);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\ncat a b||e=1\nprintf %s \"$e\";}|zstd -q -3\nprintf '=%s-%s:%s' \"$n\" 0000000007 $?\n"
        );
        assert_eq!(due, 3);
    }

    #[test]
    fn lines_stay_short() {
        let names: Vec<String> = (0..9000)
            .map(|n| format!("a-rather-long-name-{n}"))
            .collect();
        let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let (all, due) = text(&layout(&files).segment(0, u64::MAX));
        assert_eq!(due, 9000);
        assert!(all.lines().count() > 3);
        assert!(all.lines().all(|line| line.len() < LINE_MAX + 1000));
    }

    #[test]
    fn a_trailer_has_its_length() {
        let nonce = "a".repeat(NONCE);
        for number in [0, 7, u32::MAX] {
            let trailer = trailer(&nonce, number, 1);
            assert_eq!(trailer.len(), TRAILER);
            assert!(trailer.starts_with(&trailer_start(&nonce)));
        }
    }
}
