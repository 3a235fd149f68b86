//! Rules of the classic text protocol. The first byte tells what comes: `h` replies to `have`, `i` replies to
//! `info`, any other request lines.
//!
//! 1. However the bytes are cut, the same is decoded; after an error nothing more is. Memory is taken in
//!    proportion to the bytes that have come.
//! 2. What is decoded is encoded to the same bytes; where the text leaves a choice (spaces, words that are no
//!    paths, zeros before a number) to what decodes to the same.
//! 3. What is shown of a request that nobody knows cannot steer a terminal.

use bytes::BytesMut;
use ssh_substituter::model::PathInfo;
use ssh_substituter::wire::text::{
    MAX_BAD, QueryKind, caller, parse_query, put_have, put_infos, put_query, take_line,
};

use super::pieces::decode;
use super::{assert_plain, memory};

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    match input.split_first() {
        None => {}
        Some((b'h', rest)) => have(rest),
        Some((b'i', rest)) => infos(rest),
        Some((_, rest)) => queries(rest),
    }
}

fn queries(input: &[u8]) {
    let outcome = decode(input, |_| false, || take_line);
    for (line, span) in outcome.spans(input) {
        assert_eq!([&line[..], b"\n"].concat(), span);
        let query = memory::within(line.len(), || parse_query(line));
        for error in &query.bad {
            assert_plain(&error.to_string());
        }
        let word = match &query.kind {
            QueryKind::Have => "have",
            QueryKind::Info => "info",
            QueryKind::Unknown(word) => {
                assert!(word.is_ascii() || word.ends_with('\u{2026}'));
                assert_plain(word);
                continue;
            }
        };
        let mut out = Vec::new();
        put_query(&mut out, word, &query.paths);
        let words = line[..].split(|b| *b == b' ');
        if query.bad.is_empty() && words.clone().all(|word| !word.is_empty()) {
            assert_eq!(out, span);
        }
        let words = words.filter(|word| !word.is_empty()).count();
        let bad = words - 1 - query.paths.len();
        assert_eq!(query.bad.len(), bad.min(MAX_BAD));
        let again = parse_query(&out[..out.len() - 1]);
        assert_eq!((again.kind, again.paths), (query.kind, query.paths));
        assert!(again.bad.is_empty());
    }
}

fn have(input: &[u8]) {
    let outcome = decode(
        input,
        |_| false,
        || {
            let mut lines = Vec::new();
            move |buf: &mut BytesMut| caller::take_have(buf, &mut lines)
        },
    );
    for (paths, span) in outcome.spans(input) {
        let mut out = Vec::new();
        put_have(&mut out, paths);
        assert_eq!(out, span);
    }
}

fn infos(input: &[u8]) {
    let outcome = decode(input, |_| false, || caller::take_info);
    for (info, span) in outcome.spans(input) {
        let out = encoded(info.as_ref());
        if numbers_are_plain(info.as_ref(), span) {
            assert_eq!(out, span);
        }
        let again = caller::take_info(&mut BytesMut::from(&out[..]));
        assert_eq!(again.as_ref(), Ok(&Some(info.clone())));
    }
}

/// An info, or the end of a reply.
fn encoded(info: Option<&PathInfo>) -> Vec<u8> {
    let mut out = Vec::new();
    put_infos(&mut out, info);
    if info.is_some() {
        // The end of the reply is not a part of it.
        out.pop();
    }
    out
}

/// Whether no number begins with a zero that it does not need. All of them are digits.
fn numbers_are_plain(info: Option<&PathInfo>, span: &[u8]) -> bool {
    let Some(info) = info else {
        return true;
    };
    let lines: Vec<&[u8]> = span.split(|b| *b == b'\n').collect();
    let sizes = 3 + info.references.len();
    let plain = |number: &[u8]| {
        assert!(number.iter().all(u8::is_ascii_digit), "{number:?}");
        number.len() == 1 || number[0] != b'0'
    };
    [2, sizes, sizes + 1]
        .into_iter()
        .all(|line| plain(lines[line]))
}
