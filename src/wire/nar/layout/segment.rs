//! A part of an archive, and what is needed to put it together.

use super::Layout;

/// So many bytes of an archive from one offset on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Segment {
    layout: Layout,
    start: u64,
    len: u64,
}

/// What stands at the next place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Framing(Vec<u8>),
    /// Bytes of a file.
    Contents(FileRange),
}

/// A range of a regular file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRange {
    /// The file's path below the root, parts separated by slashes; empty when it is the root.
    pub path: Vec<u8>,
    /// Length of the whole file in bytes.
    pub size: u64,
    /// The first byte that is needed.
    pub offset: u64,
    /// How many bytes are needed.
    pub len: u64,
}

impl FileRange {
    /// Whether it is all of the file.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.len == self.size
    }
}

impl Segment {
    pub(super) fn new(layout: Layout, start: u64, len: u64) -> Self {
        Self { layout, start, len }
    }

    /// The archive it is a part of.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Offset of its first byte in the archive.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is left for it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it consists of, in order. Framing between two pieces of contents is one piece.
    #[must_use]
    pub fn pieces(&self) -> Pieces {
        let nodes = &self.layout.0.nodes;
        let index = nodes.partition_point(|node| node.start <= self.start);
        Pieces {
            layout: self.layout.clone(),
            index: index.saturating_sub(1),
            start: self.start,
            end: self.start + self.len,
            framing: Vec::new(),
            contents: None,
        }
    }

    /// How many bytes of files it needs.
    #[must_use]
    pub fn contents_len(&self) -> u64 {
        self.pieces()
            .map(|piece| match piece {
                Piece::Framing(_) => 0,
                Piece::Contents(range) => range.len,
            })
            .sum()
    }
}

/// The pieces of a segment, made one by one.
#[derive(Debug)]
pub struct Pieces {
    layout: Layout,
    /// The next node.
    index: usize,
    start: u64,
    end: u64,
    /// Framing that more may be added to.
    framing: Vec<u8>,
    /// What follows that framing.
    contents: Option<FileRange>,
}

impl Pieces {
    /// Adds what of `bytes`, which stand at that offset of the archive, is in the segment.
    fn add(&mut self, at: u64, bytes: &[u8]) {
        let (from, len) = self.part(at, bytes.len() as u64);
        // Within a slice, so both fit.
        let from = from as usize;
        self.framing
            .extend_from_slice(&bytes[from..from + len as usize]);
    }

    /// The part of `len` bytes at that offset that is in the segment: where it begins in them, and
    /// its length.
    fn part(&self, at: u64, len: u64) -> (u64, u64) {
        let first = self.start.clamp(at, at + len);
        let end = self.end.clamp(at, at + len);
        (first - at, end.saturating_sub(first))
    }

    /// Takes in one more node; `false` behind the last one.
    fn step(&mut self) -> bool {
        let layout = self.layout.clone();
        let nodes = &*layout.0;
        let Some(node) = nodes.nodes.get(self.index) else {
            return false;
        };
        if node.start >= self.end {
            return false;
        }
        let mut framing = Vec::new();
        nodes.head(self.index, &mut framing);
        self.add(node.start, &framing);
        let at = node.start + framing.len() as u64;
        let size = nodes.contents(self.index);
        let (offset, len) = self.part(at, size);
        if len > 0 {
            self.contents = Some(FileRange {
                path: nodes.path(self.index),
                size,
                offset,
                len,
            });
            // The rest of this node comes with the next step.
            return true;
        }
        framing.clear();
        nodes.tail(self.index, &mut framing);
        self.add(at + size, &framing);
        self.index += 1;
        true
    }

    /// What follows the contents that were given last.
    fn finish_node(&mut self, contents: &FileRange) {
        let layout = self.layout.clone();
        let nodes = &*layout.0;
        let mut framing = Vec::new();
        nodes.head(self.index, &mut framing);
        let at = nodes.nodes[self.index].start + framing.len() as u64 + contents.size;
        framing.clear();
        nodes.tail(self.index, &mut framing);
        self.add(at, &framing);
        self.index += 1;
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.contents.is_none() && self.step() {}
        if !self.framing.is_empty() {
            return Some(Piece::Framing(std::mem::take(&mut self.framing)));
        }
        let contents = self.contents.take()?;
        self.finish_node(&contents);
        Some(Piece::Contents(contents))
    }
}

/// The rest of an archive, part by part.
#[derive(Debug, Clone)]
pub struct Segments {
    layout: Layout,
    next: u64,
    max_len: u64,
}

impl Segments {
    pub(super) fn new(layout: Layout, from: u64, max_len: u64) -> Self {
        Self {
            layout,
            next: from,
            max_len: max_len.max(1),
        }
    }
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let segment = self.layout.segment(self.next, self.max_len);
        self.next = segment.start + segment.len;
        (!segment.is_empty()).then_some(segment)
    }
}
