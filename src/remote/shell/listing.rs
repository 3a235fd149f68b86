//! Parses what `list` prints about a tree ([`super::tools`]): with GNU's `find`
//!
//! ```text
//! listing = *record
//! record  = TYPE " " MODE " " SIZE " " PATH NUL TARGET NUL
//! ```
//!
//! TYPE is one letter, MODE octal, SIZE decimal, PATH relative to where it began, TARGET empty
//! unless TYPE is `l` (find(1), `-printf`). Elsewhere
//!
//! ```text
//! listing = 1*( NAME NUL ) NUL *( MODE " " SIZE LF ) NUL *TARGET
//! ```
//!
//! NAME is absolute, the first one where it began; MODE hexadecimal, with the type (inode(7)); SIZE decimal. There is one line for
//! each name, and one TARGET for each link, of its SIZE.

use crate::wire::nar::layout::{Entry, EntryKind};
use crate::wire::{WireError, printable};

/// The owner may execute it: what Nix looks at.
const OWNER_EXECUTES: u32 = 0o100;

/// Where the type of a file stands in its mode, and the types that a NAR can hold (inode(7)).
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// Whether a listing is not of GNU's `find`.
pub(super) fn is_plain(listing: &[u8]) -> bool {
    listing.starts_with(b"/")
}

/// A listing of one object that is no link, and what follows.
pub(super) fn split_one(bytes: &[u8]) -> (&[u8], &[u8]) {
    let zeros = bytes.iter().enumerate().filter(|(_, byte)| **byte == 0);
    let last = if is_plain(bytes) { 2 } else { 1 };
    let end = zeros.map(|(at, _)| at + 1).nth(last).unwrap_or_default();
    bytes.split_at(end)
}

/// The entries of a listing, at most `max` of them.
pub(super) fn parse(mut listing: &[u8], max: usize) -> Result<Vec<Entry<'_>>, WireError> {
    if is_plain(listing) {
        return parse_plain(listing, max);
    }
    let mut entries = Vec::new();
    while !listing.is_empty() {
        if entries.len() == max {
            return Err(too_many(max));
        }
        let (head, rest) = until_nul(listing)?;
        let (target, rest) = until_nul(rest)?;
        listing = rest;
        let entry = entry(head, target).ok_or_else(|| {
            let want = "a file, directory or symlink";
            WireError::new("listing", want, printable(head))
        })?;
        entries.push(entry);
    }
    Ok(entries)
}

fn too_many(max: usize) -> WireError {
    WireError::new("listing", format!("at most {max} entries"), "more")
}

fn parse_plain(listing: &[u8], max: usize) -> Result<Vec<Entry<'_>>, WireError> {
    let mut names = Vec::new();
    let mut rest = listing;
    loop {
        let (name, after) = until_nul(rest)?;
        rest = after;
        if name.is_empty() {
            break;
        }
        if names.len() == max {
            return Err(too_many(max));
        }
        names.push(name);
    }
    let top = names.first().copied().unwrap_or_default();
    let (stats, mut targets) = until_nul(rest)?;
    let mut stats = stats.split_inclusive(|byte| *byte == b'\n');
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let stat = stats.next().unwrap_or_default();
        let entry = plain_entry(top, name, stat, &mut targets).ok_or_else(|| {
            let want = "a file, directory or symlink";
            WireError::new(
                "listing",
                want,
                format!("{} {}", printable(stat), printable(name)),
            )
        })?;
        entries.push(entry);
    }
    match (stats.next(), targets) {
        (None, []) => Ok(entries),
        (Some(line), _) => Err(WireError::new("listing", "no more lines", printable(line))),
        (None, rest) => Err(WireError::new(
            "listing",
            "no more targets",
            printable(rest),
        )),
    }
}

/// Takes the target of a link.
fn plain_entry<'a>(
    top: &[u8],
    name: &'a [u8],
    stat: &[u8],
    targets: &mut &'a [u8],
) -> Option<Entry<'a>> {
    let path = name.strip_prefix(top)?;
    let path = match path {
        [] => path,
        path => path.strip_prefix(b"/")?,
    };
    let stat = std::str::from_utf8(stat.strip_suffix(b"\n")?).ok()?;
    let (mode, size) = stat.split_once(' ')?;
    let mode = u32::from_str_radix(mode, 16).ok()?;
    let size: u64 = size.parse().ok()?;
    let kind = match mode & TYPE {
        DIRECTORY => EntryKind::Directory,
        FILE => EntryKind::File {
            executable: mode & OWNER_EXECUTES != 0,
            size,
        },
        SYMLINK => {
            let (target, rest) = targets.split_at_checked(usize::try_from(size).ok()?)?;
            *targets = rest;
            EntryKind::Symlink(target)
        }
        _ => return None,
    };
    Some(Entry { path, kind })
}

fn until_nul(bytes: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    match bytes.iter().position(|b| *b == 0) {
        Some(at) => Ok((&bytes[..at], &bytes[at + 1..])),
        None => Err(WireError::new("listing", "whole records", printable(bytes))),
    }
}

fn entry<'a>(head: &'a [u8], target: &'a [u8]) -> Option<Entry<'a>> {
    let mut fields = head.splitn(4, |b| *b == b' ');
    let mut field = || fields.next();
    let (kind, mode, size, path) = (field()?, field()?, field()?, field()?);
    let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
    let size: u64 = std::str::from_utf8(size).ok()?.parse().ok()?;
    let kind = match kind {
        b"d" => EntryKind::Directory,
        b"f" => EntryKind::File {
            executable: mode & OWNER_EXECUTES != 0,
            size,
        },
        b"l" => EntryKind::Symlink(target),
        _ => return None,
    };
    Some(Entry { path, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_entries() {
        let listing = b"d 555 4096 \0\0f 444 12 a b\0\0f 555 0 a\n\0\0l 777 3 l\0x y\0";
        let entries = parse(listing, 4).unwrap();
        let file = |executable, size| EntryKind::File { executable, size };
        let want = [
            (&b""[..], EntryKind::Directory),
            (b"a b", file(false, 12)),
            (b"a\n", file(true, 0)),
            (b"l", EntryKind::Symlink(b"x y")),
        ];
        assert_eq!(entries, want.map(|(path, kind)| Entry { path, kind }));
        assert!(parse(listing, 3).is_err());
        assert_eq!(parse(b"", 3), Ok(vec![]));
    }

    #[test]
    fn names_lines_and_targets_become_entries() {
        let listing = b"/s/x\0/s/x/a b\0/s/x/a\n\0/s/x/l\0/s/x/l/m\0\0\
            41ed 4096\n8124 12\n816D 0\na1ff 3\na1ff 1\n\0x yz";
        let file = |executable, size| EntryKind::File { executable, size };
        let want = [
            (&b""[..], EntryKind::Directory),
            (b"a b", file(false, 12)),
            (b"a\n", file(true, 0)),
            (b"l", EntryKind::Symlink(b"x y")),
            (b"l/m", EntryKind::Symlink(b"z")),
        ];
        let want = want.map(|(path, kind)| Entry { path, kind });
        assert_eq!(parse(listing, 5).unwrap(), want);
        assert!(parse(listing, 4).is_err());
        for end in 1..listing.len() {
            assert!(parse(&listing[..end], 5).is_err(), "{end}");
        }
        assert_eq!(
            split_one(b"/\0\x0041ed 9\n\0more"),
            (&b"/\0\x0041ed 9\n\0"[..], &b"more"[..])
        );
        assert_eq!(
            split_one(b"d 555 9 \0\0more"),
            (&b"d 555 9 \0\0"[..], &b"more"[..])
        );
    }

    #[test]
    fn everything_else_is_refused() {
        for listing in [
            &b"f 444 12 a"[..],
            b"f 444 12 a\0",
            b"f 444 12\0\0",
            b"f 444 -1 a\0\0",
            b"f 888 1 a\0\0",
            b"f  1 a\0\0",
            b"p 444 0 a\0\0",
            b"s 444 0 a\0\0",
            b"U 444 0 a\0\0",
            b"ff 444 0 a\0\0",
            b"\0\0",
            b"%y %m %s %P\0%l\0",
            b"/",
            b"/s/x\0",
            b"/s/x\0\0\0",
            b"/s/x\0\081a4 1\0",
            b"/s/x\0\081a4\n\0",
            b"/s/x\0\x0011a4 1\n\0",
            b"/s/x\0\081a4 1\n81a4 1\n\0",
            b"/s/x\0\081a4 1\n\0more",
            b"/s/x\0/s/xy\0\x0041ed 1\n81a4 1\n\0",
            b"/s/x\0/s/y\0\x0041ed 1\n81a4 1\n\0",
            b"/s/x\0\0a1ff 5\n\0four",
        ] {
            assert!(parse(listing, 9).is_err(), "{}", printable(listing));
        }
    }
}
