//! Rules of what a server decodes. With `h` as the first byte the client's hello comes first, with any
//! other only requests.
//!
//! 1. However the bytes are cut, the same is decoded; after an error nothing more is. Memory is taken in
//!    proportion to the bytes that have come.
//! 2. What is decoded, the client's side encodes to the same bytes; where it means the same (any number
//!    that is not 0 is true) or something was left out (no store path) to what decodes to the same.
//! 3. Only between requests may the client end.

use bytes::BytesMut;
use ssh_substituter::model::{MAX_PATH_LEN, StorePath};
use ssh_substituter::wire::serve::{
    CLIENT_MAGIC, Incoming, MAX_SET, RequestDecoder, Version, take_client_hello,
};
use ssh_substituter::wire::{Cursor, Stop};

use super::assert_plain;
use super::pieces::decode;

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    let Some((kind, mut rest)) = input.split_first() else {
        return;
    };
    if *kind == b'h' {
        let outcome = decode(rest, |_| true, || take_client_hello);
        let [(version, end)] = outcome.items[..] else {
            return;
        };
        let words = [CLIENT_MAGIC.to_le_bytes(), version.to_le_bytes()].concat();
        assert_eq!(&rest[..end], words);
        if Version::NEWEST.negotiate(version).is_none() {
            return;
        }
        rest = &rest[end..];
    }
    requests(rest);
}

fn requests(input: &[u8]) {
    let outcome = decode(input, ends, || {
        let mut decoder = RequestDecoder::default();
        move |buf: &mut BytesMut| decoder.step(buf)
    });
    for (incoming, span) in outcome.spans(input) {
        written_back(incoming, span);
    }
    let last = outcome.items.last();
    if outcome.error.is_some() || last.is_some_and(|(incoming, _)| ends(incoming)) {
        return;
    }
    let (mut decoder, mut buf) = (RequestDecoder::default(), BytesMut::from(input));
    while let Ok(Some(_)) = decoder.step(&mut buf) {}
    let end = last.map_or(0, |(_, end)| *end);
    assert_eq!(decoder.is_between_requests(&buf), end == input.len());
}

/// Nothing that follows can be understood.
fn ends(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::NotServed { .. })
}

/// The rule of one request and the bytes that it was made of.
pub fn written_back(incoming: &Incoming, span: &[u8]) {
    let request = match incoming {
        Incoming::Request(request) => request,
        Incoming::DumpOf(error) => return assert_plain(&error.to_string()),
        Incoming::NotServed { name, .. } => return assert_plain(name),
    };
    let mut out = Vec::new();
    request.put(&mut out);
    if is_canonical(span).expect("it was decoded before") {
        assert_eq!(out, span);
    }
    let again = RequestDecoder::default().step(&mut BytesMut::from(&out[..]));
    assert_eq!(again.as_ref(), Ok(&Some(incoming.clone())));
}

/// Whether booleans are 0 or 1 and all of a set are store paths.
fn is_canonical(span: &[u8]) -> Result<bool, Stop> {
    let mut c = Cursor::new(span);
    let bools = match c.u64()? {
        1 => 2,
        7 => 1,
        2 => 0,
        _ => return Ok(true),
    };
    let mut canonical = true;
    for _ in 0..bools {
        canonical &= c.u64()? < 2;
    }
    for _ in 0..c.length("set", MAX_SET)? {
        let path = c.string("path", MAX_PATH_LEN)?;
        canonical &= StorePath::from_bytes(path).is_ok();
    }
    Ok(canonical)
}
