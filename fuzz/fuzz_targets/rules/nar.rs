//! Rules of the NAR decoder, and of all that rests on it.
//!
//! 1. However the bytes are cut, the decoder reads the same.
//! 2. What it accepts, the encoder writes back to the same bytes; bytes behind the end are left alone.
//! 3. It never steps over more than its limit, and refuses exactly what does not fit.
//! 4. After an error it stays there.
//! 5. Whatever it has stepped over can be completed to a well-formed archive.
//! 6. A layout of the same files has the same bytes (and see [`super::listing`]).
//! 7. It takes memory in proportion to the bytes that have come.
//! 8. A restore never writes outside of its folder (see [`super::restore`]).

use ssh_substituter::wire::nar::{
    Completion, Decoder, Event, directory_end, directory_start, entry_end, entry_start, file_end,
    file_start, magic, symlink,
};

use super::pieces::{Random, cuts};
use super::reading::{End, OwnedEvent, Reading, read};
use super::{listing, memory, restore};

/// How many places of an input it is cut off at, to be completed.
const BREAKS: usize = 6;
/// How many bytes are filled in at most to complete an archive here. Sizes may be near 2^64.
const MOST_FILL: u64 = 1 << 16;

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
        listing::of_archive(&whole.events, &input[..whole.read]);
    }
    restore::check(input, &whole);
}

/// What the encoder makes of these events. It ends an entry at once, which the decoder reports with what
/// follows.
fn write(events: &[OwnedEvent]) -> Vec<u8> {
    let (mut out, mut open, mut file) = (Vec::new(), 0, 0);
    magic(&mut out);
    for event in events {
        match event {
            OwnedEvent::Directory => {
                directory_start(&mut out);
                open += 1;
            }
            OwnedEvent::Entry(name) => entry_start(&mut out, name),
            OwnedEvent::File { executable, size } => {
                file = *size;
                file_start(&mut out, *executable, *size);
            }
            OwnedEvent::Contents(bytes) => out.extend_from_slice(bytes),
            OwnedEvent::FileEnd => file_end(&mut out, file),
            OwnedEvent::Symlink(target) => symlink(&mut out, target),
            OwnedEvent::DirectoryEnd => {
                directory_end(&mut out);
                open -= 1;
            }
            OwnedEvent::End => {}
        }
        if matches!(
            event,
            OwnedEvent::FileEnd | OwnedEvent::Symlink(_) | OwnedEvent::DirectoryEnd
        ) && open > 0
        {
            entry_end(&mut out);
        }
    }
    out
}

fn written_back(input: &[u8], whole: &Reading) {
    let (out, read) = (write(&whole.events), &input[..whole.read]);
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
            // A unit that is too long can be wrong, too: whichever shows first is reported.
            assert_eq!(other.events, one.events);
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
        let again = super::reading::read(&[&archive], archive.len() as u64);
        assert_eq!(again.end, End::Complete, "cut at {cut}: {again:?}");
        assert_eq!(again.read, archive.len());
    }
}
