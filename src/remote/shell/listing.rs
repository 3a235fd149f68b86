//! Parses what `find` prints about a tree.
//!
//! ```text
//! listing = *record
//! record  = TYPE " " MODE " " SIZE " " PATH NUL TARGET NUL
//! ```
//!
//! TYPE is one letter, MODE octal, SIZE decimal, PATH relative to where it began, TARGET empty
//! unless TYPE is `l` (find(1), `-printf`).

use crate::wire::nar::layout::{Entry, EntryKind};
use crate::wire::{WireError, printable};

/// The owner may execute it: what Nix looks at.
const OWNER_EXECUTES: u32 = 0o100;

/// The entries of a listing, at most `max` of them.
pub(super) fn parse(mut listing: &[u8], max: usize) -> Result<Vec<Entry<'_>>, WireError> {
    let mut entries = Vec::new();
    while !listing.is_empty() {
        if entries.len() == max {
            return Err(WireError::new(
                "listing",
                format!("at most {max} entries"),
                "more",
            ));
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
        ] {
            assert!(parse(listing, 9).is_err(), "{}", printable(listing));
        }
    }
}
