//! Rules of the extension by which a host with this program sends parts of NARs. The first byte tells what comes: `q`
//! requests, `l` a listing, `s` a survey of two paths (behind a length of two bytes and as many bytes of names, which the
//! first path was asked for), `b` replies that may say that the server is at work, any other replies that may not.
//!
//! 1. However the bytes are cut, the same is decoded; after an error nothing more is. Memory is taken in proportion to the
//!    bytes that have come.
//! 2. What is decoded, is encoded to the same bytes (of requests of the serve protocol see [`super::serve_server`]); of a
//!    listing to one that decodes to the same. A survey says as much of each path as it was asked.
//! 3. No reason is longer than its maximum, no level higher, and the server is not busy more often than it may be.

use bytes::BytesMut;
use ssh_substituter::model::StorePath;
use ssh_substituter::wire::Cursor;
use ssh_substituter::wire::nar::layout::Layout;
use ssh_substituter::wire::serve::Incoming as ServeIncoming;
use ssh_substituter::wire::serve::extension::{
    Incoming, MAX_BUSY, MAX_ENTRIES, MAX_LEVEL, MAX_NAMES, MAX_NAMES_LEN, MAX_NARS, MAX_PARTS,
    MAX_REASON, MAX_SURVEYED, ReplyDecoder, ReplyStep, Request, RequestDecoder, Status,
    SurveyedPath, parse_listing, parse_survey, put_busy, put_end, put_entry,
};

use super::pieces::{cuts, decode};
use super::{assert_plain, memory, serve_server};

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    match input.split_first() {
        None => {}
        Some((b'q', rest)) => requests(rest),
        Some((b'l', rest)) => listing(rest),
        Some((b's', rest)) => survey(rest),
        Some((b'b', rest)) => replies(rest, true),
        Some((_, rest)) => replies(rest, false),
    }
}

fn requests(input: &[u8]) {
    let ends =
        |incoming: &Incoming| matches!(incoming, Incoming::Serve(ServeIncoming::NotServed { .. }));
    let outcome = decode(input, ends, || {
        let mut decoder = RequestDecoder::new(true);
        move |buf: &mut BytesMut| decoder.step(buf)
    });
    for (incoming, span) in outcome.spans(input) {
        let request = match incoming {
            Incoming::Serve(incoming) => {
                serve_server::written_back(incoming, span);
                continue;
            }
            Incoming::Unfit(reason) => {
                assert_plain(reason);
                continue;
            }
            Incoming::Extension(request) => request,
        };
        if let Request::List { level, .. }
        | Request::Chunk { level, .. }
        | Request::Delta { level, .. }
        | Request::Nars { level, .. }
        | Request::Survey { level, .. }
        | Request::Parts { level, .. } = request
        {
            assert!(*level <= MAX_LEVEL);
        }
        match request {
            Request::Nars { paths, .. } => assert!(paths.len() <= MAX_NARS),
            Request::Parts { paths, parts, .. } => {
                assert!(paths.len() <= MAX_NARS && parts.len() <= MAX_PARTS);
                assert!(parts.iter().all(|part| part.index < paths.len()));
            }
            Request::Survey { paths, .. } => {
                assert!(paths.len() <= MAX_SURVEYED);
                let names = paths.iter().map(|surveyed| surveyed.names().count());
                assert!(names.sum::<usize>() <= MAX_NAMES);
                let len = paths.iter().map(|surveyed| surveyed.names.len());
                assert!(len.sum::<usize>() <= MAX_NAMES_LEN);
            }
            _ => {}
        }
        let mut out = Vec::new();
        request.put(&mut out);
        if is_canonical(request, span) {
            assert_eq!(out, span);
        }
        let again = RequestDecoder::new(true).step(&mut BytesMut::from(&out[..]));
        assert_eq!(again, Ok(Some(incoming.clone())));
    }
}

/// Whether what means true is 1.
fn is_canonical(request: &Request, span: &[u8]) -> bool {
    match request {
        Request::Digest { .. } => Cursor::new(&span[span.len() - 8..])
            .u64()
            .is_ok_and(|number| number <= 1),
        _ => true,
    }
}

fn replies(input: &[u8], may_be_busy: bool) {
    // A decoder of one reply, which may give a piece bit by bit.
    let mut whole = None;
    for pieces in cuts(input) {
        let outcome = reply(&pieces, may_be_busy);
        let first = whole.get_or_insert_with(|| outcome.clone());
        assert_eq!(*first, outcome, "it matters how the bytes are cut");
    }
    let (mut decoder, mut buf) = (ReplyDecoder::new(may_be_busy), BytesMut::from(input));
    memory::within(input.len(), || {
        while let Ok(Some(step)) = decoder.step(&mut buf) {
            if matches!(step, ReplyStep::End(..)) {
                return;
            }
        }
    });
}

/// The body, how often it was busy, the end, how much was left, and whether it failed.
type Reply = (Vec<u8>, u32, Option<(Status, String)>, usize, bool);

fn reply(pieces: &[&[u8]], may_be_busy: bool) -> Reply {
    let (mut decoder, mut buf) = (ReplyDecoder::new(may_be_busy), BytesMut::new());
    let (mut body, mut busy) = (Vec::new(), 0);
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut fed = 0;
    for piece in pieces {
        buf.extend_from_slice(piece);
        fed += piece.len();
        loop {
            match decoder.step(&mut buf) {
                Ok(None) => break,
                Ok(Some(ReplyStep::Body(more))) => {
                    assert!(!more.is_empty());
                    body.extend_from_slice(&more);
                }
                Ok(Some(ReplyStep::Busy)) => {
                    busy += 1;
                    assert!(may_be_busy && busy <= MAX_BUSY);
                    let mut out = Vec::new();
                    put_busy(&mut out);
                    assert_eq!(out, [0xff; 8]);
                }
                Ok(Some(ReplyStep::End(status, reason))) => {
                    // What is no UTF-8 takes more bytes than it had.
                    assert!(reason.len() <= 3 * MAX_REASON);
                    let mut out = Vec::new();
                    put_end(&mut out, status, &reason);
                    let mut again = ReplyDecoder::new(false);
                    let step = again.step(&mut BytesMut::from(&out[..]));
                    assert!(matches!(step, Ok(Some(ReplyStep::End(same, _))) if same == status));
                    let left = buf.len() + total - fed;
                    return (body, busy, Some((status, reason)), left, false);
                }
                Err(error) => {
                    assert_plain(&error.to_string());
                    buf.extend_from_slice(&[0; 8]);
                    assert!(decoder.step(&mut buf).is_err(), "goes on after an error");
                    return (body, busy, None, 0, true);
                }
            }
        }
    }
    (body, busy, None, 0, false)
}

fn listing(input: &[u8]) {
    let path = || StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
    let parsed = memory::within(input.len(), || parse_listing(path(), input));
    let layout = match parsed {
        Ok(layout) => layout,
        Err(error) => return assert_plain(&error.to_string()),
    };
    let mut out = Vec::new();
    for entry in layout.list() {
        put_entry(&mut out, &entry.as_entry());
    }
    assert_eq!(out.len(), input.len(), "in any order");
    let again = parse_listing(path(), &out).expect("it is one");
    let pieces = |layout: &Layout| layout.segment(0, 1 << 20).pieces().collect::<Vec<_>>();
    assert_eq!(pieces(&again), pieces(&layout));
    assert_eq!(again.nar_size(), layout.nar_size());
}

fn survey(input: &[u8]) {
    let Some((len, rest)) = input.split_first_chunk() else {
        return;
    };
    let len = rest.len().min(u16::from_le_bytes(*len).into());
    let (names, said) = rest.split_at(len);
    let path = || StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
    let asked = [names, b""].map(|names| SurveyedPath {
        path: path(),
        names: names.to_vec(),
    });
    let surveyed = memory::within(input.len(), || parse_survey(&asked, said));
    let surveyed = match surveyed {
        Ok(surveyed) => surveyed,
        Err(error) => return assert_plain(&error.to_string()),
    };
    assert_eq!(surveyed.len(), asked.len());
    let mut entries = 0;
    for (asked, said) in asked.iter().zip(&surveyed) {
        assert_eq!(asked.names().count(), said.digests.len());
        entries += said.layout.as_ref().map_or(0, Layout::entries);
    }
    assert!(entries <= MAX_ENTRIES);
}
