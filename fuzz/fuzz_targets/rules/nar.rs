//! Rules of the NAR decoder, and of all that rests on it.
//!
//! 1. However the bytes are cut, the decoder tells the same.
//! 2. What it accepts, the encoder writes back to the same bytes; bytes behind the end are left alone.
//! 3. It never steps over more than its limit, and refuses exactly what does not fit.
//! 4. After an error it stays there.
//! 5. Whatever it has stepped over can be completed to a well-formed archive.
//! 6. A layout of the same files has the same bytes (and see [`super::listing`]).
//! 7. It takes memory in proportion to the bytes that have come.
//! 8. A restore never writes outside of its folder (see [`super::restore`]).

use ssh_substituter::wire::nar::{
    Completion, Decoder, Event, NarError, directory_end, directory_start, entry_end, entry_start,
    failing_nar, file_end, file_start, magic, symlink,
};

use super::pieces::{Random, cuts};
use super::{assert_plain, listing, memory, restore};

/// How many places of an input it is cut off at, to be completed.
const BREAKS: usize = 6;
/// How many bytes are filled in at most to complete an archive here. Sizes may be near 2^64.
const MOST_FILL: u64 = 1 << 16;

/// An [`Event`] that keeps its bytes. Contents that follow each other are one.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Directory,
    Entry(Vec<u8>),
    File { executable: bool, size: u64 },
    Contents(Vec<u8>),
    FileEnd,
    Symlink(Vec<u8>),
    DirectoryEnd,
    End,
}

/// How a reading ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    Complete,
    NeedsMore,
    Wrong(NarError),
}

/// What a decoder told of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub told: Vec<Told>,
    /// Bytes stepped over.
    pub read: usize,
    pub end: End,
}

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    if let Some(listing) = input.strip_prefix(b"listing\n") {
        return listing::check(listing);
    }
    let [whole, others @ ..] = cuts(input).map(|pieces| read(&pieces, u64::MAX));
    for other in others {
        assert_eq!(other, whole, "it matters how the bytes are cut");
    }
    memory::within(input.len(), || {
        let (mut decoder, mut pos) = (Decoder::new(u64::MAX), 0);
        while let Ok((read, Some(event))) = decoder.step(&input[pos..])
            && event != Event::End
        {
            pos += read;
        }
    });
    written_back(input, &whole);
    limited(input, &whole);
    completed(input);
    if whole.end == End::Complete {
        listing::of_archive(&whole.told, &input[..whole.read]);
    }
    restore::check(input, &whole);
}

/// Reads the pieces with one decoder.
pub fn read(pieces: &[&[u8]], limit: u64) -> Reading {
    let mut decoder = Decoder::new(limit);
    let (mut told, mut buf) = (Vec::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        let mut pos = 0;
        let end = loop {
            match decoder.step(&buf[pos..]) {
                Ok((read, event)) => {
                    pos += read;
                    match event {
                        None => break None,
                        Some(Event::End) => break Some(End::Complete),
                        Some(event) => tell(&mut told, event),
                    }
                }
                Err(error) => {
                    stays_wrong(&mut decoder, &error, &buf);
                    break Some(End::Wrong(error));
                }
            }
        };
        let read = decoder.bytes_read() as usize;
        assert!(decoder.bytes_read() <= limit, "{read} bytes of {limit}");
        if let Some(end) = end {
            if end == End::Complete {
                told.push(Told::End);
            }
            assert_eq!(decoder.is_complete(), end == End::Complete);
            return Reading { told, read, end };
        }
        buf.drain(..pos);
    }
    Reading {
        told,
        read: decoder.bytes_read() as usize,
        end: End::NeedsMore,
    }
}

fn tell(told: &mut Vec<Told>, event: Event<'_>) {
    let new = match event {
        Event::Directory => Told::Directory,
        Event::Entry(name) => Told::Entry(name.to_vec()),
        Event::File { executable, size } => Told::File { executable, size },
        Event::Contents(bytes) => {
            assert!(!bytes.is_empty());
            if let Some(Told::Contents(before)) = told.last_mut() {
                before.extend_from_slice(bytes);
                return;
            }
            Told::Contents(bytes.to_vec())
        }
        Event::FileEnd => Told::FileEnd,
        Event::Symlink(target) => Told::Symlink(target.to_vec()),
        Event::DirectoryEnd => Told::DirectoryEnd,
        Event::End => Told::End,
    };
    told.push(new);
}

fn stays_wrong(decoder: &mut Decoder, error: &NarError, input: &[u8]) {
    assert_plain(&error.to_string());
    assert_plain(&error.source.to_string());
    let read = decoder.bytes_read();
    assert_eq!(error.at, read);
    // Whatever is due at that place, one of these is its beginning.
    let mut all = failing_nar("x");
    let (node, entry) = (all.split_off(24), |out: &mut Vec<u8>| {
        entry_start(out, b"\xff")
    });
    let (mut start, mut end) = (Vec::new(), Vec::new());
    entry(&mut start);
    entry_end(&mut end);
    for more in [input, b"", &all, &node, &start, &end] {
        assert_eq!(
            decoder.step(more).as_ref(),
            Err(error),
            "goes on after an error"
        );
    }
    assert!(decoder.bytes_read() == read && !decoder.is_complete());
}

/// What the encoder makes of what was told. It ends an entry at once, which the decoder tells with what
/// follows.
fn write(told: &[Told]) -> Vec<u8> {
    let (mut out, mut open, mut file) = (Vec::new(), 0, 0);
    magic(&mut out);
    for told in told {
        match told {
            Told::Directory => {
                directory_start(&mut out);
                open += 1;
            }
            Told::Entry(name) => entry_start(&mut out, name),
            Told::File { executable, size } => {
                file = *size;
                file_start(&mut out, *executable, *size);
            }
            Told::Contents(bytes) => out.extend_from_slice(bytes),
            Told::FileEnd => file_end(&mut out, file),
            Told::Symlink(target) => symlink(&mut out, target),
            Told::DirectoryEnd => {
                directory_end(&mut out);
                open -= 1;
            }
            Told::End => {}
        }
        if matches!(told, Told::FileEnd | Told::Symlink(_) | Told::DirectoryEnd) && open > 0 {
            entry_end(&mut out);
        }
    }
    out
}

fn written_back(input: &[u8], whole: &Reading) {
    let (out, read) = (write(&whole.told), &input[..whole.read]);
    if whole.end == End::Complete {
        assert_eq!(out, read);
        return;
    }
    assert!(out.starts_with(read), "{out:?} from {read:?}");
    // Not read yet: the magic, or the end of an entry.
    let ahead = out.len() - read.len();
    assert!(ahead == 0 || ahead == 16 || out.len() == 24, "{ahead}");
}

fn limited(input: &[u8], whole: &Reading) {
    let mut random = Random::of(input);
    let anywhere = random.below(2 * input.len() + 2);
    for limit in [whole.read, whole.read.saturating_sub(1), anywhere] {
        let [one, others @ ..] = cuts(input).map(|pieces| read(&pieces, limit as u64));
        for other in others {
            // A unit that is too long can be wrong, too: whichever shows first is told.
            assert_eq!(other.told, one.told);
            match (&other.end, &one.end) {
                (End::Wrong(other), End::Wrong(one)) => assert_eq!(other.at, one.at),
                (other, one) => assert_eq!(other, one),
            }
        }
        if limit >= whole.read && whole.end == End::Complete {
            assert_eq!(&one, whole);
        } else if limit < whole.read {
            assert!(matches!(one.end, End::Wrong(_)), "{one:?}");
        }
    }
}

/// Cuts the input off, also at its end, and completes what was stepped over.
fn completed(input: &[u8]) {
    let mut random = Random::of(input);
    for attempt in 0..BREAKS {
        let cut = match attempt {
            0 => input.len(),
            _ => random.below(input.len() + 1),
        };
        let mut decoder = Decoder::new(u64::MAX);
        let mut pos = 0;
        while let Ok((read, event)) = decoder.step(&input[pos..cut]) {
            pos += read;
            if matches!(event, None | Some(Event::End)) {
                break;
            }
        }
        let read = decoder.bytes_read() as usize;
        let reason = ["", "why", "gone: \"\u{e4}\" at 8."][attempt % 3];
        let Completion { head, fill, tail } = decoder.completion(reason);
        if fill > MOST_FILL {
            continue;
        }
        let fill = vec![0; fill as usize];
        let archive = [&input[..read], &head, &fill, &tail].concat();
        let again = super::nar::read(&[&archive], archive.len() as u64);
        assert_eq!(again.end, End::Complete, "cut at {cut}: {again:?}");
        assert_eq!(again.read, archive.len());
    }
}
