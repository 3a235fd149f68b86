//! Assembles a segment from its framing and the contents of files that come.

use super::command::{TRAILER, trailer, trailer_start};
use crate::remote::inflater::Inflater;
use crate::wire::nar::layout::{Piece, Pieces, Segment};

const SHORT: Step = Step::Wrong("files are shorter or gone");
const UNREADABLE: Step = Step::Wrong("files could not be read");
const OTHER: Step = Step::Wrong("files have other lengths");

/// A segment that was asked for.
pub(super) struct Assembly {
    pub(super) segment: Segment,
    number: u32,
    /// Bytes that came of it, compressed or not.
    wire_len: u64,
    contents: Contents,
    compressed: Option<Compressed>,
}

/// What the contents of the files are put into.
struct Contents {
    pieces: Pieces,
    /// The segment so far.
    out: Vec<u8>,
    len: u64,
    /// Bytes of the present file that are due.
    file: u64,
    /// Bytes of all files that are due.
    due: u64,
}

#[derive(Default)]
struct Compressed {
    inflater: Inflater,
    /// What came behind the contents: `0` when all files could be read.
    status: Option<u8>,
}

/// The outcome of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    NeedMore,
    Complete,
    /// What came is not what was asked for.
    Wrong(&'static str),
    /// The host did not compress it rightly. The files may be as they should.
    BadFrame(&'static str),
}

impl Assembly {
    /// Nothing has come yet; `due` bytes of files are to come, `compressed` or not, then the trailer of that number.
    pub(super) fn new(segment: Segment, number: u32, due: u64, compressed: bool) -> Self {
        Self {
            contents: Contents {
                pieces: segment.pieces(),
                out: Vec::new(),
                len: segment.len(),
                file: 0,
                due,
            },
            segment,
            number,
            wire_len: 0,
            compressed: compressed.then(Compressed::default),
        }
    }

    /// How many bytes of the segment have come.
    pub(super) fn len(&self) -> u64 {
        self.contents.out.len() as u64
    }

    /// The segment, and how many bytes came of it.
    pub(super) fn into_parts(self) -> (Vec<u8>, u64) {
        (self.contents.out, self.wire_len)
    }

    /// Takes from the front of `input` what is certain to be contents, and the trailer behind them. Gives how
    /// many bytes were taken.
    pub(super) fn step(&mut self, input: &[u8], nonce: &str) -> (usize, Step) {
        // As long as more is due, the last bytes may be the trailer of a command that fell short.
        let sure = input.len().saturating_sub(TRAILER);
        let (taken, step) = match &mut self.compressed {
            None => self.contents.step(input, sure, nonce, self.number),
            Some(compressed) => {
                compressed.step(input, sure, (nonce, self.number), &mut self.contents)
            }
        };
        self.wire_len += taken as u64;
        (taken, step)
    }
}

impl Contents {
    /// Takes contents that come as they are.
    fn step(&mut self, input: &[u8], sure: usize, nonce: &str, number: u32) -> (usize, Step) {
        let len = usize::try_from(self.due).map_or(sure, |due| due.min(sure));
        self.put(&input[..len]);
        let rest = &input[len..];
        let step = match rest.get(..TRAILER) {
            None => Step::NeedMore,
            Some(last) if self.due > 0 => {
                if last.starts_with(trailer_start(nonce).as_bytes()) {
                    SHORT
                } else {
                    Step::NeedMore
                }
            }
            Some(last) if last == trailer(nonce, number, 0).as_bytes() => {
                return (len + TRAILER, Step::Complete);
            }
            Some(last) if last == trailer(nonce, number, 1).as_bytes() => UNREADABLE,
            Some(_) => OTHER,
        };
        (len, step)
    }

    fn put(&mut self, mut contents: &[u8]) {
        if self.out.capacity() == 0 {
            let len = usize::try_from(self.len).unwrap_or_default();
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

impl Compressed {
    /// Takes contents that come as a frame, with the status at its end.
    fn step(
        &mut self,
        input: &[u8],
        sure: usize,
        (nonce, number): (&str, u32),
        contents: &mut Contents,
    ) -> (usize, Step) {
        let status = &mut self.status;
        let mut is_longer = false;
        let used = self.inflater.step(&input[..sure], |bytes| {
            let len = usize::try_from(contents.due).map_or(bytes.len(), |due| due.min(bytes.len()));
            contents.put(&bytes[..len]);
            is_longer = match &bytes[len..] {
                [] => false,
                [byte] if status.is_none() => {
                    *status = Some(*byte);
                    false
                }
                _ => true,
            };
            !is_longer
        });
        let used = match used {
            Err(_) => return (0, Step::BadFrame("what came is no frame of zstd's")),
            Ok(used) if is_longer => return (used, OTHER),
            Ok(used) => used,
        };
        let Some(last) = input[used..].get(..TRAILER) else {
            return (used, Step::NeedMore);
        };
        if !self.inflater.has_ended() {
            let is_cut = last.starts_with(trailer_start(nonce).as_bytes());
            let step = match is_cut {
                true => Step::BadFrame("its zstd ended early"),
                false => Step::NeedMore,
            };
            return (used, step);
        }
        let step = match self.status {
            _ if last != trailer(nonce, number, 0).as_bytes() => Step::BadFrame("its zstd failed"),
            None => SHORT,
            Some(b'0') => return (used + TRAILER, Step::Complete),
            Some(_) => UNREADABLE,
        };
        (used, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorePath;
    use crate::wire::nar::layout::{Entry, EntryKind, Layout};

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    fn segment() -> (Segment, u64) {
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let kind = EntryKind::File {
            executable: false,
            size: 300,
        };
        let layout = Layout::new(path, vec![Entry { path: b"", kind }]).unwrap();
        (layout.segment(0, u64::MAX), 300)
    }

    fn assembly() -> Assembly {
        let (segment, due) = segment();
        Assembly::new(segment, 3, due, false)
    }

    fn compressed() -> Assembly {
        let (segment, due) = segment();
        Assembly::new(segment, 3, due, true)
    }

    fn frame(contents: &[u8]) -> Vec<u8> {
        crate::remote::inflater::frame(contents)
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

    #[test]
    fn a_frame_is_taken_up_to_the_trailer_and_no_further() {
        let frame = frame(&[&[7; 300][..], b"0"].concat());
        let output = [&frame, trailer(NONCE, 3, 0).as_bytes(), b"next"].concat();
        let mut plain = assembly();
        let raw = [&[7; 300], trailer(NONCE, 3, 0).as_bytes()].concat();
        assert_eq!(feed(&mut plain, &raw, 1000).1, Step::Complete);
        let (plain, _) = plain.into_parts();
        for piece in [1, 45, 46, 47, 300, 1000] {
            let mut assembly = compressed();
            let (left, step) = feed(&mut assembly, &output, piece);
            assert_eq!(step, Step::Complete, "{piece}");
            assert!(left <= 4, "{left}");
            let (bytes, wire_len) = assembly.into_parts();
            assert_eq!(bytes, plain);
            assert_eq!(wire_len, (frame.len() + TRAILER) as u64);
        }
    }

    #[test]
    fn what_is_wrong_with_a_frame_shows() {
        let ok = trailer(NONCE, 3, 0);
        let of = |contents: &[u8]| [&frame(contents), ok.as_bytes()].concat();
        let whole = frame(&[&[7; 300][..], b"0"].concat());
        let failed = trailer(NONCE, 3, 1);
        for (output, expected) in [
            (of(&[&[7; 299][..], b"1"].concat()), SHORT),
            (of(&[&[7; 300][..], b"1"].concat()), UNREADABLE),
            (of(&[&[7; 301][..], b"0"].concat()), OTHER),
            (of(&[&[7; 99_999][..], b"0"].concat()), OTHER),
            (
                [&whole[..whole.len() - 3], ok.as_bytes()].concat(),
                Step::BadFrame("its zstd ended early"),
            ),
            (
                [&whole, failed.as_bytes()].concat(),
                Step::BadFrame("its zstd failed"),
            ),
            (failed.into_bytes(), Step::BadFrame("its zstd ended early")),
            (
                [&[1; 100], ok.as_bytes()].concat(),
                Step::BadFrame("what came is no frame of zstd's"),
            ),
        ] {
            for piece in [1, 46, 1000] {
                let (_, step) = feed(&mut compressed(), &output, piece);
                assert_eq!(step, expected, "{piece}");
            }
        }
    }
}
