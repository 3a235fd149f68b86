//! What the NAR decoder makes of an input: the events, and how it ended.

use ssh_substituter::wire::nar::{Decoder, Event, NarError, entry_end, entry_start, failing_nar};

use super::assert_plain;

/// An [`Event`] that keeps its bytes. Contents that follow each other are one.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnedEvent {
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

/// What a decoder read of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub events: Vec<OwnedEvent>,
    /// Bytes stepped over.
    pub read: usize,
    pub end: End,
}

/// Reads the pieces with one decoder.
pub fn read(pieces: &[&[u8]], limit: u64) -> Reading {
    let mut decoder = Decoder::new(limit);
    let (mut events, mut buf) = (Vec::new(), Vec::new());
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
                        Some(event) => push(&mut events, event),
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
                events.push(OwnedEvent::End);
            }
            assert_eq!(decoder.is_complete(), end == End::Complete);
            return Reading { events, read, end };
        }
        buf.drain(..pos);
    }
    Reading {
        events,
        read: decoder.bytes_read() as usize,
        end: End::NeedsMore,
    }
}

fn push(events: &mut Vec<OwnedEvent>, event: Event<'_>) {
    let new = match event {
        Event::Directory => OwnedEvent::Directory,
        Event::Entry(name) => OwnedEvent::Entry(name.to_vec()),
        Event::File { executable, size } => OwnedEvent::File { executable, size },
        Event::Contents(bytes) => {
            assert!(!bytes.is_empty());
            if let Some(OwnedEvent::Contents(before)) = events.last_mut() {
                before.extend_from_slice(bytes);
                return;
            }
            OwnedEvent::Contents(bytes.to_vec())
        }
        Event::FileEnd => OwnedEvent::FileEnd,
        Event::Symlink(target) => OwnedEvent::Symlink(target.to_vec()),
        Event::DirectoryEnd => OwnedEvent::DirectoryEnd,
        Event::End => OwnedEvent::End,
    };
    events.push(new);
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
