//! Listings: all objects of a path, so that a client knows its layout.

use super::MAX_ENTRIES;
use crate::model::StorePath;
use crate::wire::nar::layout::{Entry, EntryKind, Layout};
use crate::wire::nar::{MAX_DEPTH, MAX_NAME, MAX_TARGET};
use crate::wire::{Cursor, Stop, WireError, put_string, put_u64};

const DIRECTORY: u64 = 0;
const FILE: u64 = 1;
const EXECUTABLE: u64 = 2;
const SYMLINK: u64 = 3;

/// The longest name of an entry, in bytes.
const MAX_ENTRY_NAME: usize = MAX_DEPTH * (MAX_NAME + 1);

/// Appends one entry of a listing.
pub fn put_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let kind = match entry.kind {
        EntryKind::Directory => DIRECTORY,
        EntryKind::File { executable, .. } => match executable {
            false => FILE,
            true => EXECUTABLE,
        },
        EntryKind::Symlink(_) => SYMLINK,
    };
    put_u64(out, kind);
    put_string(out, entry.path);
    match entry.kind {
        EntryKind::Directory => {}
        EntryKind::File { size, .. } => put_u64(out, size),
        EntryKind::Symlink(target) => put_string(out, target),
    }
}

/// The layout of `path` by a whole listing.
///
/// # Errors
/// When it is no listing, has too many entries, or no NAR can be made of it.
pub fn parse_listing(path: StorePath, listing: &[u8]) -> Result<Layout, WireError> {
    let mut c = Cursor::new(listing);
    let mut entries = Vec::new();
    while c.position() < listing.len() {
        if entries.len() == MAX_ENTRIES {
            let want = format!("at most {MAX_ENTRIES} entries");
            return Err(WireError::new("listing", want, "more"));
        }
        entries.push(entry(&mut c).map_err(|stop| match stop {
            Stop::NeedMore => WireError::new("listing", "whole entries", "a cut one"),
            Stop::Error(error) => error,
        })?);
    }
    Layout::new(path, entries)
}

fn entry<'a>(c: &mut Cursor<'a>) -> Result<Entry<'a>, Stop> {
    let kind = c.u64()?;
    let path = c.string("name of an entry", MAX_ENTRY_NAME)?;
    let kind = match kind {
        DIRECTORY => EntryKind::Directory,
        FILE | EXECUTABLE => EntryKind::File {
            executable: kind == EXECUTABLE,
            size: c.u64()?,
        },
        SYMLINK => EntryKind::Symlink(c.string("target of a symlink", MAX_TARGET)?),
        other => {
            return Err(WireError::new("kind of an entry", "0 to 3", other).into());
        }
    };
    Ok(Entry { path, kind })
}
