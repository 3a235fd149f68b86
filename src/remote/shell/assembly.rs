//! Assembles a segment from its framing and the contents of files that come.

use super::command::{TRAILER, trailer, trailer_start};
use crate::wire::nar::layout::{Piece, Pieces, Segment};

/// A segment that was asked for.
pub(super) struct Assembly {
    pub(super) segment: Segment,
    number: u32,
    pieces: Pieces,
    /// The segment so far.
    out: Vec<u8>,
    /// Bytes of the present file that are due.
    file: u64,
    /// Bytes of all files that are due.
    due: u64,
}

/// The outcome of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    NeedMore,
    Complete,
    /// What came is not what was asked for.
    Wrong(&'static str),
}

impl Assembly {
    /// Nothing has come yet; `due` bytes of files are to come, then the trailer of that number.
    pub(super) fn new(segment: Segment, number: u32, due: u64) -> Self {
        Self {
            pieces: segment.pieces(),
            out: Vec::new(),
            file: 0,
            segment,
            number,
            due,
        }
    }

    /// How many bytes of the segment have come.
    pub(super) fn len(&self) -> u64 {
        self.out.len() as u64
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Takes from the front of `input` what is certain to be contents, and the trailer behind them. Gives how
    /// many bytes were taken.
    pub(super) fn step(&mut self, input: &[u8], nonce: &str) -> (usize, Step) {
        // As long as more is due, the last bytes may be the trailer of a command that fell short.
        let sure = input.len().saturating_sub(TRAILER);
        let len = usize::try_from(self.due).map_or(sure, |due| due.min(sure));
        self.put(&input[..len]);
        let rest = &input[len..];
        let step = match rest.get(..TRAILER) {
            None => Step::NeedMore,
            Some(last) if self.due > 0 => {
                if last.starts_with(trailer_start(nonce).as_bytes()) {
                    Step::Wrong("files are shorter or gone")
                } else {
                    Step::NeedMore
                }
            }
            Some(last) if last == trailer(nonce, self.number, 0).as_bytes() => {
                return (len + TRAILER, Step::Complete);
            }
            Some(last) if last == trailer(nonce, self.number, 1).as_bytes() => {
                Step::Wrong("files could not be read")
            }
            Some(_) => Step::Wrong("files have other lengths"),
        };
        (len, step)
    }

    fn put(&mut self, mut contents: &[u8]) {
        if self.out.capacity() == 0 {
            let len = usize::try_from(self.segment.len()).unwrap_or_default();
            self.out.reserve_exact(len);
        }
        self.due -= contents.len() as u64;
        loop {
            while self.file == 0 {
                match self.pieces.next() {
                    Some(Piece::Framing(bytes)) => self.out.extend_from_slice(&bytes),
                    Some(Piece::Contents(range)) => self.file = range.len,
                    None => return,
                }
            }
            if contents.is_empty() {
                return;
            }
            let len = usize::try_from(self.file).map_or(contents.len(), |f| f.min(contents.len()));
            self.out.extend_from_slice(&contents[..len]);
            self.file -= len as u64;
            contents = &contents[len..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorePath;
    use crate::wire::nar::layout::{Entry, EntryKind, Layout};

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    fn assembly() -> Assembly {
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let kind = EntryKind::File {
            executable: false,
            size: 300,
        };
        let layout = Layout::new(path, vec![Entry { path: b"", kind }]).unwrap();
        Assembly::new(layout.segment(0, u64::MAX), 3, 300)
    }

    /// Feeds it, so many bytes at a time; what remains, and how it ended.
    fn feed(assembly: &mut Assembly, output: &[u8], piece: usize) -> (usize, Step) {
        let (mut at, mut end) = (0, 0);
        loop {
            let (taken, step) = assembly.step(&output[at..end], NONCE);
            at += taken;
            if step != Step::NeedMore || end == output.len() {
                return (output.len() - at, step);
            }
            end = (end + piece).min(output.len());
        }
    }

    #[test]
    fn contents_are_taken_up_to_the_trailer_and_no_further() {
        let output = [&[7; 300], trailer(NONCE, 3, 0).as_bytes(), b"next"].concat();
        for piece in [1, 45, 46, 47, 300, 1000] {
            let mut assembly = assembly();
            let (left, step) = feed(&mut assembly, &output, piece);
            assert_eq!(step, Step::Complete);
            assert!(left <= 4, "{left}");
            assert_eq!(assembly.len(), assembly.segment.len());
        }
    }

    #[test]
    fn too_little_shows_at_once() {
        for have in [0, 1, 46, 299] {
            let output = [&vec![7; have], trailer(NONCE, 3, 1).as_bytes()].concat();
            for piece in [1, 46, 1000] {
                let (_, step) = feed(&mut assembly(), &output, piece);
                assert_eq!(step, Step::Wrong("files are shorter or gone"), "{have}");
            }
        }
    }

    #[test]
    fn too_much_and_failures_show() {
        let wrong = |output: &[u8]| feed(&mut assembly(), output, 50).1;
        let long = [&[7; 301], trailer(NONCE, 3, 0).as_bytes()].concat();
        assert_eq!(wrong(&long), Step::Wrong("files have other lengths"));
        let failed = [&[7; 300], trailer(NONCE, 3, 1).as_bytes()].concat();
        assert_eq!(wrong(&failed), Step::Wrong("files could not be read"));
        let other = [&[7; 300], trailer(NONCE, 4, 0).as_bytes()].concat();
        assert_eq!(wrong(&other), Step::Wrong("files have other lengths"));
    }
}
