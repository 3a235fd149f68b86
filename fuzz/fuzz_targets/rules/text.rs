//! Rules of the requests of the classic text protocol. The first byte is passed over.
//!
//! 1. However the bytes are cut, the same is decoded; after an error nothing more is. Memory is taken in
//!    proportion to the bytes that have come.
//! 2. What is decoded is encoded to the same bytes; where the text leaves a choice (spaces, words that are no
//!    paths) to what decodes to the same.
//! 3. What is shown of a request that nobody knows cannot steer a terminal.

use bytes::BytesMut;
use ssh_substituter::wire::text::{LineDecoder, MAX_BAD, QueryKind, parse_query, put_query};

use super::pieces::decode;
use super::{assert_plain, memory};

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    let Some((_, input)) = input.split_first() else {
        return;
    };
    let outcome = decode(
        input,
        |_| false,
        || {
            let mut lines = LineDecoder::default();
            move |buf: &mut BytesMut| lines.step(buf)
        },
    );
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
