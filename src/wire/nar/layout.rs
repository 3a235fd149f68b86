//! Where each byte of a NAR is, known from a listing of the files alone.
//!
//! All of a NAR but the contents of its files follows from names, kinds and sizes. So any part of
//! it can be put together from its framing, made here, and ranges of files, read wherever they are:
//! several parts at a time, from several places.
//!
//! The nodes are kept in the order of the archive, each with the offset of its first byte, some 40
//! bytes each besides its name. Node number i is followed by the ends of all directories that end
//! with it:
//!
//! ```text
//! node = [ "entry" "(" "name" NAME "node" ] head [ contents ] 1*end
//! end  = rest-of-node [ ")" of its entry ]
//! ```

use std::cmp::Ordering;
use std::sync::Arc;

use super::{
    MAX_DEPTH, MAX_NAME, MAX_TARGET, directory_end, directory_start, entry_end, entry_start,
    file_end, file_start, magic, symlink,
};
use crate::model::StorePath;
use crate::wire::{WireError, printable};

mod segment;

pub use segment::{FileRange, Piece, Pieces, Segment, Segments};

/// One file system object of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its path below the root, parts separated by slashes; empty for the root itself.
    pub path: &'a [u8],
    /// What it is.
    pub kind: EntryKind<'a>,
}

/// The kind of an [`Entry`], with all that a NAR keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Whether its owner may execute it.
        executable: bool,
        /// Length of its contents in bytes.
        size: u64,
    },
    /// A symlink, with its target.
    Symlink(&'a [u8]),
}

/// The NAR of one store path: what is where in it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout(Arc<Nodes>);

/// An object of a layout.
#[derive(Debug)]
pub struct ListedEntry<'a> {
    path: Vec<u8>,
    nodes: &'a Nodes,
    index: usize,
}

impl ListedEntry<'_> {
    /// As a listing has it.
    #[must_use]
    pub fn as_entry(&self) -> Entry<'_> {
        let kind = match self.nodes.nodes[self.index].kind {
            Kind::Directory => EntryKind::Directory,
            Kind::File { executable, size } => EntryKind::File { executable, size },
            Kind::Symlink { len } => EntryKind::Symlink(self.nodes.target(self.index, len)),
        };
        Entry {
            path: &self.path,
            kind,
        }
    }
}

#[derive(Debug)]
struct Nodes {
    path: StorePath,
    /// In the order of the archive; the root is the first.
    nodes: Vec<Node>,
    /// Names and targets.
    text: Vec<u8>,
    size: u64,
}

#[derive(Debug)]
struct Node {
    /// Offset of its first byte in the archive.
    start: u64,
    kind: Kind,
    /// Where its name is in the text; a target follows it.
    name: u32,
    name_len: u8,
    /// How many directories it stands in.
    depth: u8,
    parent: u32,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Directory,
    File { executable: bool, size: u64 },
    Symlink { len: u16 },
}

impl Layout {
    /// Puts a listing of everything at and below the root into the order of the archive. `entries`
    /// may come in any order.
    ///
    /// # Errors
    /// When a NAR of it would be refused (the limits of [`super`]), or the entries are no tree:
    /// none or several for a path, or a parent is missing.
    pub fn new(path: StorePath, mut entries: Vec<Entry<'_>>) -> Result<Self, WireError> {
        entries.sort_unstable_by(|a, b| order(a.path, b.path));
        if let Some(twice) = entries.windows(2).find(|two| two[0].path == two[1].path) {
            let got = printable(twice[0].path);
            return Err(WireError::new("listing", "each path once", got));
        }
        let mut nodes = Nodes {
            path,
            nodes: Vec::with_capacity(entries.len()),
            text: Vec::new(),
            size: 0,
        };
        // The directories that are open, outermost first.
        let mut open: Vec<(u32, &[u8])> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            nodes.push(index, entry, &mut open)?;
        }
        nodes.place()?;
        Ok(Self(Arc::new(nodes)))
    }

    /// The store path.
    #[must_use]
    pub fn path(&self) -> &StorePath {
        &self.0.path
    }

    /// Length of the whole archive in bytes.
    #[must_use]
    pub fn nar_size(&self) -> u64 {
        self.0.size
    }

    /// How many file system objects there are.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.0.nodes.len()
    }

    /// Whether the root is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.0.nodes[0].kind, Kind::Directory)
    }

    /// All objects, in the order of the archive.
    pub fn list(&self) -> impl Iterator<Item = ListedEntry<'_>> {
        (0..self.entries()).map(|index| ListedEntry {
            path: self.0.path(index),
            nodes: &self.0,
            index,
        })
    }

    /// The part of the archive from byte `start` on, `len` bytes or as many as there are. Nothing is
    /// made yet.
    #[must_use]
    pub fn segment(&self, start: u64, len: u64) -> Segment {
        let start = start.min(self.0.size);
        let len = len.min(self.0.size - start);
        Segment::new(self.clone(), start, len)
    }

    /// What is left of the archive from byte `from` on, in parts of at most `max_len` bytes (at
    /// least 1).
    #[must_use]
    pub fn segments(&self, from: u64, max_len: u64) -> Segments {
        Segments::new(self.clone(), from, max_len)
    }
}

/// The order of the archive: byte order of names, level by level. A name holds neither NUL nor
/// slash, so a slash that counts as less than anything does it.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

impl Nodes {
    fn push<'a>(
        &mut self,
        index: usize,
        entry: &Entry<'a>,
        open: &mut Vec<(u32, &'a [u8])>,
    ) -> Result<(), WireError> {
        let no_tree = |want: &str| WireError::new("listing", want, printable(entry.path));
        let index = u32::try_from(index).map_err(|_| no_tree("fewer than 2^32 entries"))?;
        let (dir, name) = match entry.path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&entry.path[..slash], &entry.path[slash + 1..]),
            None => (&b""[..], entry.path),
        };
        if index == 0 {
            if !entry.path.is_empty() {
                return Err(no_tree("the root"));
            }
        } else {
            check_name(name)?;
            // In this order a parent comes before its children, and nothing else between.
            while open.last().is_some_and(|(_, path)| *path != dir) {
                open.pop();
            }
            if open.is_empty() || entry.path.starts_with(b"/") {
                return Err(no_tree("an entry in a directory of the listing"));
            }
        }
        if open.len() >= MAX_DEPTH {
            let want = format!("at most {MAX_DEPTH} within each other");
            return Err(WireError::new("nodes", want, "one more"));
        }
        let text = self.text.len();
        self.text.extend_from_slice(name);
        let kind = match entry.kind {
            EntryKind::Directory => Kind::Directory,
            EntryKind::File { executable, size } => Kind::File { executable, size },
            EntryKind::Symlink(target) => {
                if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                    let want = "1 to 4095 bytes without NUL";
                    return Err(WireError::new(
                        "target of a symlink",
                        want,
                        printable(target),
                    ));
                }
                self.text.extend_from_slice(target);
                Kind::Symlink {
                    len: u16::try_from(target.len()).unwrap_or(u16::MAX),
                }
            }
        };
        self.nodes.push(Node {
            start: 0,
            kind,
            name: u32::try_from(text).map_err(|_| no_tree("less than 4 GiB of names"))?,
            name_len: u8::try_from(name.len()).unwrap_or(u8::MAX),
            depth: u8::try_from(open.len()).unwrap_or(u8::MAX),
            parent: open.last().map_or(0, |(parent, _)| *parent),
        });
        if entry.kind == EntryKind::Directory {
            open.push((index, entry.path));
        }
        Ok(())
    }

    /// Finds the offset of each node.
    fn place(&mut self) -> Result<(), WireError> {
        if self.nodes.is_empty() {
            return Err(WireError::new("listing", "the root", "nothing"));
        }
        let mut at = 0u64;
        let mut framing = Vec::new();
        for index in 0..self.nodes.len() {
            self.nodes[index].start = at;
            framing.clear();
            self.head(index, &mut framing);
            self.tail(index, &mut framing);
            at = at
                .checked_add(framing.len() as u64)
                .and_then(|at| at.checked_add(self.contents(index)))
                .ok_or_else(|| WireError::new("size of the archive", "below 2^64", "more"))?;
        }
        self.size = at;
        Ok(())
    }

    fn name(&self, node: &Node) -> &[u8] {
        let start = node.name as usize;
        &self.text[start..start + usize::from(node.name_len)]
    }

    /// The target of a symlink, `len` bytes.
    fn target(&self, index: usize, len: u16) -> &[u8] {
        let node = &self.nodes[index];
        let start = node.name as usize + usize::from(node.name_len);
        &self.text[start..start + usize::from(len)]
    }

    /// Length of a node's contents.
    fn contents(&self, index: usize) -> u64 {
        match self.nodes[index].kind {
            Kind::File { size, .. } => size,
            _ => 0,
        }
    }

    /// What comes before the contents of a node, from the end of the one before.
    fn head(&self, index: usize, out: &mut Vec<u8>) {
        let node = &self.nodes[index];
        if index == 0 {
            magic(out);
        } else {
            entry_start(out, self.name(node));
        }
        match node.kind {
            Kind::Directory => directory_start(out),
            Kind::File { executable, size } => file_start(out, executable, size),
            Kind::Symlink { len } => symlink(out, self.target(index, len)),
        }
    }

    /// What comes after the contents of a node, up to the beginning of the next one.
    fn tail(&self, index: usize, out: &mut Vec<u8>) {
        let node = &self.nodes[index];
        let next = self.nodes.get(index + 1).map_or(0, |next| next.depth);
        // It goes on inside of this directory.
        if next > node.depth {
            return;
        }
        match node.kind {
            Kind::Directory => directory_end(out),
            Kind::File { size, .. } => file_end(out, size),
            Kind::Symlink { .. } => {}
        }
        // Its own entry ends, then each directory that it was the last one in.
        let mut depth = node.depth;
        while depth > 0 {
            entry_end(out);
            if depth == next {
                return;
            }
            directory_end(out);
            depth -= 1;
        }
    }

    /// The path of a node below the root, without a slash at its beginning.
    fn path(&self, index: usize) -> Vec<u8> {
        let mut names = Vec::new();
        let mut node = &self.nodes[index];
        while node.depth > 0 {
            names.push(self.name(node));
            node = &self.nodes[node.parent as usize];
        }
        names.reverse();
        names.join(&b'/')
    }
}

fn check_name(name: &[u8]) -> Result<(), WireError> {
    let bad = name.is_empty() || name == b"." || name == b".." || name.contains(&0);
    if bad || name.len() > MAX_NAME {
        let want = "a file name of 1 to 255 bytes";
        return Err(WireError::new("name of an entry", want, printable(name)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
