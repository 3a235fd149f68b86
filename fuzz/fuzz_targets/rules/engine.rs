//! Rules of what front ends and their engine say. The first byte tells what comes: `c` calls, `n` the number
//! of a hello, any other frames.
//!
//! 1. However the bytes are cut, the same is decoded; after an error nothing more is. Memory is taken in
//!    proportion to the bytes that have come.
//! 2. What is decoded is encoded to the same bytes (of requests of the serve protocol see
//!    [`super::serve_server`]).
//! 3. No piece, text or completion is longer than its maximum.

use bytes::BytesMut;
use ssh_substituter::wire::serve::engine::{
    Call, CallDecoder, Frame, MAX_PIECE, MAX_STATUS, MAX_TEXT, hello_number, put_attach,
    put_forget, put_push, put_status, put_stop, split_number,
};
use ssh_substituter::wire::serve::{Incoming, Version};

use super::pieces::decode;
use super::serve_server;

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    match input.split_first() {
        None => {}
        Some((b'c', rest)) => calls(rest),
        Some((b'n', rest)) => numbers(rest),
        Some((_, rest)) => frames(rest),
    }
}

fn calls(input: &[u8]) {
    let ends = |call: &Call| matches!(call, Call::Serve(Incoming::NotServed { .. }));
    let outcome = decode(input, ends, || {
        let mut decoder = CallDecoder::default();
        move |buf: &mut BytesMut| decoder.step(buf)
    });
    for (call, span) in outcome.spans(input) {
        let mut out = Vec::new();
        match call {
            Call::Serve(incoming) => {
                serve_server::written_back(incoming, span);
                continue;
            }
            Call::Attach {
                fingerprint,
                caller,
            } => put_attach(&mut out, fingerprint, *caller),
            Call::Status => put_status(&mut out),
            Call::Stop => put_stop(&mut out),
            Call::Forget(host) => put_forget(&mut out, host.as_deref()),
            Call::Push(is_urgent) => put_push(&mut out, *is_urgent),
        }
        assert_eq!(out, span);
    }
}

fn numbers(input: &[u8]) {
    let Some(bytes) = input.first_chunk() else {
        return;
    };
    let number = u64::from_le_bytes(*bytes);
    let (serve, extension) = split_number(number);
    assert_eq!(serve | extension << 16, number);
    if let Some(version) = Version::NEWEST.negotiate(serve) {
        let number = hello_number(version, extension);
        assert_eq!(split_number(number), (version.number(), extension));
    }
}

fn frames(input: &[u8]) {
    let outcome = decode(input, |_| false, || Frame::take);
    for (frame, span) in outcome.spans(input) {
        let mut out = Vec::new();
        frame.put(&mut out);
        assert_eq!(out, span);
        match frame {
            Frame::Text(text) => assert!(text.len() <= MAX_STATUS),
            Frame::Refused(text) | Frame::Log(_, text) | Frame::Source(text) => {
                assert!(text.len() <= MAX_TEXT);
            }
            Frame::Closed(host, text) => {
                assert!(host.len() <= MAX_TEXT && text.len() <= MAX_TEXT);
            }
            Frame::Broken(text, rest) => {
                assert!(text.len() <= MAX_TEXT);
                assert!(rest.head.len() <= MAX_TEXT && rest.tail.len() <= MAX_TEXT);
            }
            Frame::Inline(bytes, _) => assert!(bytes.len() <= MAX_PIECE),
            Frame::Piped(len, _) | Frame::Last(len) => assert!(*len <= MAX_PIECE),
            Frame::Attached | Frame::Reply | Frame::Heartbeat | Frame::Done => {}
        }
    }
}
