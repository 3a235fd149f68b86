//! Rules of layouts: an archive put together from a listing and ranges of files.
//!
//! A listing from outside is given as lines, `KIND PATH NUL REST`: kind `d`, `f` and `x` (REST is the
//! size, little endian) or `l` (REST is the target).
//!
//! 1. What a layout accepts, the decoder accepts: same size, same entries.
//! 2. Neither the order of the listing nor the size of the segments matters.
//! 3. It takes memory in proportion to the listing, whatever sizes that tells.
//! 4. Every range that is asked for lies in its file.

use std::collections::HashMap;

use ssh_substituter::model::StorePath;
use ssh_substituter::wire::nar::layout::{Entry, EntryKind, Layout, Piece};

use super::pieces::Random;
use super::reading::{End, OwnedEvent, read};
use super::{assert_plain, memory};

/// Larger archives are not written out here.
const LARGEST: u64 = 1 << 16;

fn path() -> StorePath {
    StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-x").unwrap()
}

/// The rules, for a listing from outside.
pub fn check(input: &[u8]) {
    let entries: Vec<Entry<'_>> = input.split(|b| *b == b'\n').filter_map(entry).collect();
    let shuffled = shuffled(&entries, input);
    let layout = memory::within(input.len(), || Layout::new(path(), entries.clone()));
    let layout = match (layout, shuffled) {
        (Ok(layout), Ok(other)) => {
            assert_eq!(layout.nar_size(), other.nar_size());
            layout
        }
        (Err(error), Err(_)) => return assert_plain(&error.to_string()),
        (one, other) => panic!("the order matters: {one:?}, {other:?}"),
    };
    assert_eq!(layout.entries(), entries.len());
    let sizes = entries.iter().filter_map(|entry| match entry.kind {
        EntryKind::File { size, .. } => Some((entry.path.to_vec(), size)),
        _ => None,
    });
    let sizes: HashMap<Vec<u8>, u64> = sizes.collect();
    // Some part of an archive of any size.
    let mut random = Random::of(input);
    let start = random.next() % (layout.nar_size() + 1);
    let segment = layout.segment(start, 1 + random.next() % 5000);
    let mut len = 0;
    for piece in segment.pieces() {
        len += match piece {
            Piece::Framing(bytes) => bytes.len() as u64,
            Piece::Contents(range) => {
                assert_eq!(sizes.get(&range.path), Some(&range.size));
                assert!(range.len > 0 && range.len <= range.size - range.offset);
                range.len
            }
        };
    }
    assert_eq!(len, segment.len());
    if layout.nar_size() <= LARGEST {
        let archive = written(&layout, layout.nar_size(), |path, len| {
            assert_eq!(sizes.get(path), Some(&(len as u64)));
            vec![0; len]
        });
        let reading = read(&[&archive], layout.nar_size());
        assert_eq!(reading.end, End::Complete, "{archive:?}");
        assert_eq!(reading.read, archive.len());
        of_archive(&reading.events, &archive);
    }
}

fn shuffled(
    entries: &[Entry<'_>],
    input: &[u8],
) -> Result<Layout, ssh_substituter::wire::WireError> {
    let mut entries = entries.to_vec();
    let mut random = Random::of(input);
    for last in (1..entries.len()).rev() {
        entries.swap(last, random.below(last + 1));
    }
    Layout::new(path(), entries)
}

fn entry(line: &[u8]) -> Option<Entry<'_>> {
    let (kind, line) = line.split_first()?;
    let end = line.iter().position(|b| *b == 0).unwrap_or(line.len());
    let (path, rest) = (&line[..end], line.get(end + 1..).unwrap_or_default());
    let size = || {
        let mut bytes = [0; 8];
        let len = rest.len().min(8);
        bytes[..len].copy_from_slice(&rest[..len]);
        u64::from_le_bytes(bytes)
    };
    let kind = match kind {
        b'd' => EntryKind::Directory,
        b'l' => EntryKind::Symlink(rest),
        kind => EntryKind::File {
            executable: *kind == b'x',
            size: size(),
        },
    };
    Some(Entry { path, kind })
}

/// Puts an archive together, from segments of so many bytes.
fn written(layout: &Layout, len: u64, contents: impl Fn(&[u8], usize) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for segment in layout.segments(0, len) {
        assert_eq!(segment.start(), out.len() as u64);
        let mut files = 0;
        for piece in segment.pieces() {
            match piece {
                Piece::Framing(bytes) => out.extend(bytes),
                Piece::Contents(range) => {
                    files += range.len;
                    let all = contents(&range.path, range.size as usize);
                    assert_eq!(
                        range.is_whole(),
                        range.offset == 0 && range.len == range.size
                    );
                    let (from, to) = (range.offset, range.offset + range.len);
                    out.extend_from_slice(&all[from as usize..to as usize]);
                }
            }
        }
        assert_eq!(files, segment.contents_len());
    }
    out
}

/// The rules, for a complete archive and its events.
pub fn of_archive(events: &[OwnedEvent], archive: &[u8]) {
    let mut files: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut kinds: Vec<(Vec<u8>, OwnedEvent)> = Vec::new();
    let (mut names, mut open): (Vec<&[u8]>, _) = (Vec::new(), 0);
    for event in events {
        let path = names.join(&b'/');
        match event {
            OwnedEvent::Directory | OwnedEvent::Symlink(_) => kinds.push((path, event.clone())),
            OwnedEvent::File { .. } => {
                files.insert(path.clone(), Vec::new());
                kinds.push((path, event.clone()));
            }
            OwnedEvent::Contents(bytes) => {
                files.insert(path, bytes.clone());
            }
            OwnedEvent::Entry(name) => names.push(name),
            _ => {}
        }
        match event {
            OwnedEvent::Directory => open += 1,
            OwnedEvent::DirectoryEnd => open -= 1,
            _ => {}
        }
        let closes = matches!(
            event,
            OwnedEvent::FileEnd | OwnedEvent::Symlink(_) | OwnedEvent::DirectoryEnd
        );
        if closes && open > 0 {
            names.pop();
        }
    }
    let entries = kinds.iter().map(|(path, event)| Entry {
        path,
        kind: match event {
            OwnedEvent::Directory => EntryKind::Directory,
            OwnedEvent::Symlink(target) => EntryKind::Symlink(target),
            OwnedEvent::File { executable, size } => EntryKind::File {
                executable: *executable,
                size: *size,
            },
            other => panic!("no entry: {other:?}"),
        },
    });
    let layout = shuffled(&entries.collect::<Vec<_>>(), archive).unwrap();
    assert_eq!(layout.nar_size(), archive.len() as u64);
    assert_eq!(layout.entries(), kinds.len());
    assert_eq!(
        layout.is_directory(),
        events.first() == Some(&OwnedEvent::Directory)
    );
    let mut random = Random::of(archive);
    // Small segments begin anew so often that they are for small archives.
    let most = 1 + random.below(archive.len());
    for len in [
        archive.len() as u64,
        (most as u64).max(archive.len() as u64 / 64),
    ] {
        let out = written(&layout, len, |path, _| files[path].clone());
        assert_eq!(out, archive, "in segments of {len}");
    }
}
